"""Reading a request's body with limits, and noticing a client that leaves."""

import trio
from starlette.types import Receive

from node.api.backend import BackendError

DRAIN_LIMITS = 16
"""A body of so many times the limit is no longer read to its end."""

BODY_S = 30.0
"""How long a client may take to send its body."""


async def read_body(receive: Receive, limit: int) -> bytes | None:
    """The request's body; None where the client left. Raises :class:`BackendError` (408, 413).

    Somewhat too large a body is read to its end and thrown away: a client that is still writing when the connection
    closes never sees why.
    """
    body, size = bytearray(), 0
    with trio.move_on_after(BODY_S):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= limit:
                body += chunk
            ended = not message.get("more_body", False)
            if size > DRAIN_LIMITS * limit or (ended and size > limit):
                text = f"the body has more than {limit} bytes"
                raise BackendError(413, "body_too_large", text, kind="invalid_request_error")
            if ended:
                return bytes(body)
    raise BackendError(408, "body_timeout", f"the body took more than {BODY_S:g} s", kind="invalid_request_error")


async def cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    """Cancel ``scope`` once the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
