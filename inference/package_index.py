"""Where a wheel lies: a package index's own page of a project, read as JSON (PEP 691) or HTML (PEP 503).

Only the wheel with the pinned SHA-256 is looked for, so a page can at worst send us somewhere in vain.
"""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin

import httpx
import msgspec
import trio

PUBLIC_INDEX = "https://pypi.org/simple"

_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
_PAGE_S = 30.0
_PAGE_BYTES = 8 << 20


class _File(msgspec.Struct):
    url: str
    hashes: dict[str, str] = {}


class _Page(msgspec.Struct):
    files: list[_File]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an anchor's target."""
        self.hrefs += [value for name, value in attrs if tag == "a" and name == "href" and value]


def find_in_page(text: str, content_type: str, page_url: str, sha256: str) -> str | None:
    """The URL of the file with that SHA-256 on an index's page; None where there is none. Raises ValueError."""
    if "json" in content_type:
        page = msgspec.json.decode(text, type=_Page)
        return next((urljoin(page_url, f.url) for f in page.files if f.hashes.get("sha256") == sha256), None)
    links = _Links()
    links.feed(text)
    found = (urldefrag(urljoin(page_url, href)) for href in links.hrefs)
    return next((url for url, fragment in found if fragment == f"sha256={sha256}"), None)


async def find_wheel(requirement: str, sha256: str, indexes: tuple[str, ...]) -> str | None:
    """Where the wheel of ``requirement`` (``name==version``) with ``sha256`` lies, in the first index that has it.

    None where no index could be read or none has it: pip may know better, with credentials and links of its own.
    """
    project = re.sub(r"[-_.]+", "-", requirement.split("==", maxsplit=1)[0]).lower()
    async with httpx.AsyncClient(follow_redirects=True, timeout=_PAGE_S) as client:
        for index in indexes:
            page_url = f"{index.rstrip('/')}/{project}/"
            try:
                page = await client.get(page_url, headers={"accept": _ACCEPT})
                if page.status_code != httpx.codes.OK or len(page.content) > _PAGE_BYTES:
                    continue
                found = find_in_page(page.text, page.headers.get("content-type", ""), str(page.url), sha256)
            except (httpx.HTTPError, httpx.InvalidURL, ValueError):
                continue  # the next index, or pip itself
            if found is not None:
                return found
    return None


async def configured_indexes() -> tuple[str, ...]:
    """The package indexes that pip or uv is set up for and that speak HTTP, in the order of their weight.

    The public one where no other takes its place; none where the network is not to be used.
    """
    if os.environ.get("PIP_NO_INDEX") or os.environ.get("UV_OFFLINE"):
        return ()
    named = [os.environ.get(name, "") for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")]
    named.append(await _pip_setting("global.index-url"))
    texts = (" ".join(named).split() or [PUBLIC_INDEX]) + os.environ.get("PIP_EXTRA_INDEX_URL", "").split()
    return tuple(dict.fromkeys(url for url in texts if url.startswith(("http://", "https://"))))


async def _pip_setting(key: str) -> str:
    """A setting of pip; empty where pip or the setting is not there."""
    with trio.move_on_after(_PAGE_S):
        done = await trio.run_process(
            [sys.executable, "-m", "pip", "config", "get", key],
            capture_stdout=True,
            stderr=subprocess.DEVNULL,
            check=False,
            stdin=b"",
        )
        return "" if done.returncode else done.stdout.decode(errors="replace").strip()
    return ""
