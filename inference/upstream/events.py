"""Server-sent events of an upstream, read with bounds: a server that never ends a line is cut off.

Nothing that an upstream sends is quoted in an error: it may repeat the prompt.
"""

from collections.abc import AsyncIterator

import httpx
import trio

from inference.errors import AnswerInvalid, EngineCrashed, EngineUnavailable

LINE_BYTES = 1 << 20
"""The longest line that is read."""

DONE = b"[DONE]"


class EventReader:
    """The data of each event of an open response, in order; :meth:`aclose` hangs up, which cancels upstream."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._chunks: AsyncIterator[bytes] = response.aiter_bytes()
        self._buffer = bytearray()
        self._scanned = 0
        self._heard = False

    async def next(self) -> bytes | None:
        """The next event's data, None once the stream has ended.

        Raises :class:`AnswerInvalid`, or :class:`EngineCrashed` where the connection breaks within an answer.
        """
        while (line := await self._line()) is not None:
            if line.startswith(b"data:"):
                self._heard = True
                return line[5:].strip()
            if line.startswith(b"error:"):  # llama-server's own way
                return line[6:].strip()
        return None

    async def aclose(self) -> None:
        """Close the connection. Reading on under a cancelled scope unwinds httpx's own generators."""
        with trio.CancelScope(shield=True) as scope:
            scope.cancel()
            try:
                async for _ in self._chunks:
                    pass
            except httpx.HTTPError:  # the upstream has gone: then there is nothing left to cancel
                return
        with trio.CancelScope(shield=True):
            await self._response.aclose()

    async def _line(self) -> bytes | None:
        while (end := self._buffer.find(b"\n", self._scanned)) < 0:
            self._scanned = len(self._buffer)
            if self._scanned > LINE_BYTES:
                raise AnswerInvalid(f"the upstream sent a line of more than {LINE_BYTES} bytes")
            chunk = await self._chunk()
            if chunk is None:
                return None
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._scanned = 0
        return line

    async def _chunk(self) -> bytes | None:
        try:
            return await anext(self._chunks, None)
        except httpx.TimeoutException as error:
            raise EngineUnavailable("the upstream fell silent within an answer") from error
        except httpx.HTTPError as error:
            what = f"the upstream's connection broke within an answer: {type(error).__name__}"
            raise (EngineCrashed if self._heard else EngineUnavailable)(what) from error
