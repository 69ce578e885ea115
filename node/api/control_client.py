"""Ask a running node on this machine through its control API, found by its data folder. Blocking: for the CLI."""

import json
from pathlib import Path
from typing import Any

import httpx

from node.errors import KeystoreMissing, NodeUnreachable, Unanswerable
from node.files import read_private

READY_FILE = "ready.json"
TOKEN_FILE = "control.token"  # noqa: S105  # the name of a file

TIMEOUT_S = 10.0


def ask(data_dir: Path, path: str, method: str = "GET") -> Any:
    """The JSON that the node of ``data_dir`` answers ``path`` with; POST is for what changes something.

    Raises :class:`NodeUnreachable` where no node runs or it answers an error, :class:`Unanswerable` with the node's
    words where it knows no answer, and
    :class:`~node.errors.KeystoreExposed` where its token may be read by others.
    """
    try:
        ready = json.loads(read_private(data_dir / READY_FILE))
        token = read_private(data_dir / TOKEN_FILE).decode().strip()
    except KeystoreMissing as error:
        raise NodeUnreachable(data_dir, f"it does not run, there is no {error.path.name}") from error
    url = f"{ready['control_url']}{path}"
    try:
        headers = {"authorization": f"Bearer {token}"}
        response = httpx.request(method, url, headers=headers, timeout=TIMEOUT_S, trust_env=False)
    except httpx.HTTPError as error:
        raise NodeUnreachable(data_dir, f"{url}: {error}") from error
    if response.status_code in {httpx.codes.NOT_FOUND, httpx.codes.BAD_REQUEST}:
        raise Unanswerable(_reason(response))
    if response.status_code != httpx.codes.OK:
        raise NodeUnreachable(data_dir, f"{path}: {response.status_code} {_reason(response)}")
    return response.json()


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
