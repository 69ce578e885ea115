"""Refuse what did not come from a program on this machine.

Listening on 127.0.0.1 keeps other machines out, not web pages: a browser's page may post to loopback, and a name that
its owner points at 127.0.0.1 makes it look like the same site. So the Host must be a loopback name, and so must the
Origin, which browsers send and other clients don't.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class LoopbackOnly:
    """ASGI middleware: 403 for a foreign Host or Origin, before anything is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or hand on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        for name, value in (("Host", f"//{headers.get('host', '')}"), ("Origin", headers.get("origin"))):
            if value is not None and _hostname(value) not in _NAMES:
                message = f"{name} {value.removeprefix('//')!r} is not this machine"
                error = {"message": message, "type": "invalid_request_error", "param": None, "code": "not_loopback"}
                await JSONResponse({"error": error}, 403)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
