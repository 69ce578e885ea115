"""Fetching a large file over HTTP: taken up where it stopped, and believed only once its hash is the published one."""

import hashlib
import re
from pathlib import Path

import httpx
import structlog
import trio

from inference.errors import ModelError
from inference.progress import Report, silent

_log = structlog.get_logger(__name__)

RETRY_S = (0.5, 2.0, 5.0, 10.0)
"""Pauses before the next try. A try that brought bytes starts the count again."""

STALL_S = 30.0
"""A server that sends nothing for so long is tried again."""

_READ_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class _Broken(Exception):
    """A try ended before the file did; another may go on from there."""


async def download(url: str, target: Path, sha256: str, report: Report = silent) -> None:
    """Fetch ``url`` to ``target``, whose SHA-256 must be ``sha256`` (hex).

    What has come lies beside it as ``NAME.part`` and is taken up again with an HTTP range, by a later call too; a
    server without ranges is asked from the start. Raises :class:`ModelError`: a server that refuses, or keeps breaking
    off, leaves the part; another file than the published one is removed.
    """
    part = target.with_name(target.name + ".part")
    name = _name(url)
    failures = 0
    async with httpx.AsyncClient(follow_redirects=True, timeout=httpx.Timeout(STALL_S)) as client:
        while True:
            before = _size(part)
            try:
                await _Try(client, url, part, name, report).run()
                break
            except (_Broken, httpx.TransportError) as error:
                failures = 1 if _size(part) > before else failures + 1
                if failures > len(RETRY_S):
                    raise ModelError(f"fetching {name} failed {failures} times in a row: {error!r}") from error
                _log.info("fetching goes on", file=name, have_bytes=_size(part), reason=repr(error))
                await trio.sleep(RETRY_S[failures - 1])
            except httpx.HTTPError as error:
                raise ModelError(f"fetching {name} failed: {error!r}") from error
    found = await trio.to_thread.run_sync(hash_whole, part, f"checking {name}", report)
    if found != sha256:
        part.unlink()
        raise ModelError(f"{name} has sha256 {found}, published is {sha256}")
    part.replace(target)


class _Try:
    """One request and its body."""

    def __init__(self, client: httpx.AsyncClient, url: str, part: Path, name: str, report: Report) -> None:
        self._client = client
        self._url = url
        self._part = part
        self._name = name
        self._report = report

    async def run(self) -> None:
        """Bring the part to its end. Raises :class:`_Broken`, :class:`ModelError`, ``httpx.TransportError``."""
        have = _size(self._part)
        # a compressed body would have other offsets than the file
        headers = {"accept-encoding": "identity"} | ({"range": f"bytes={have}-"} if have else {})
        async with self._client.stream("GET", self._url, headers=headers) as response:
            match response.status_code:
                case httpx.codes.PARTIAL_CONTENT:
                    await self._append(response, self._resumed_total(response, have), have)
                case httpx.codes.OK:
                    if have:
                        _log.info("the server takes no ranges: fetching from the start", file=self._name)
                    await self._append(response, int(response.headers.get("content-length", 0)), 0)
                case httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                    self._at_end(response, have)
                case status if status >= 500 or status in {408, 429}:
                    raise _Broken(f"HTTP status {status}")
                case status:
                    raise ModelError(f"the server of {self._name} answered with HTTP status {status}")

    def _resumed_total(self, response: httpx.Response, have: int) -> int:
        """The file's size by a partial answer that begins where this part ends."""
        given = response.headers.get("content-range", "")
        found = _CONTENT_RANGE.fullmatch(given)
        if found is None or int(found[1]) != have:
            self._part.unlink()
            raise _Broken(f"a range from {have} on was answered with {given!r}")
        return 0 if found[3] == "*" else int(found[3])

    def _at_end(self, response: httpx.Response, have: int) -> None:
        """Nothing is left to fetch, or what is here is longer than the file."""
        if response.headers.get("content-range") == f"bytes */{have}":
            return
        self._part.unlink()
        raise _Broken(f"no bytes from {have} on: the part is not of this file")

    async def _append(self, response: httpx.Response, total: int, have: int) -> None:
        what = f"fetching {self._name}"
        self._report(what, have, total)
        with self._part.open("ab" if have else "wb") as file:
            async for data in response.aiter_raw():
                file.write(data)
                have += len(data)
                self._report(what, have, total)
                if total and have > total:
                    self._part.unlink()
                    raise ModelError(f"the server sent more than the {total} bytes of {self._name}")
        if have < total:
            raise _Broken(f"the answer ended after {have} of {total} bytes")


def hash_whole(path: Path, what: str, report: Report = silent) -> str:
    """SHA-256 of a file, in hex. Raises :class:`ModelError` where it cannot be read."""
    hashed, done = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            total = path.stat().st_size
            while data := file.read(_READ_BYTES):
                hashed.update(data)
                done += len(data)
                report(what, done, total)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    return hashed.hexdigest()


def _name(url: str) -> str:
    """What the file is called for people. Raises :class:`ModelError` for what is no address."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ModelError(f"{url!r} is not an address: {error}") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ModelError(f"{url!r} is not an http address")
    return parsed.path.rsplit("/", 1)[-1] or parsed.host


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
