"""Two ends of a stream in memory, with the semantics of the network's frame streams: END, ERROR, and breaking."""

import trio

from gossip.errors import MessageTooLarge, RemoteError, StreamBroken, StreamTimeout

Frame = bytes | tuple[str, str] | None
"""Data, an ERROR frame's code and detail, or END."""


class MemoryStream:
    def __init__(
        self, peer: str, outgoing: trio.MemorySendChannel[Frame], incoming: trio.MemoryReceiveChannel[Frame]
    ) -> None:
        self.remote_peer = peer
        self._outgoing = outgoing
        self._incoming = incoming
        self._ended = False
        self._received_end = False

    async def send(self, data: bytes, *, timeout: float = 10) -> None:
        if self._ended:
            raise StreamBroken("this side has ended")
        await self._put(data, timeout)

    async def receive(self, *, limit: int, timeout: float) -> bytes | None:
        if self._received_end:
            return None
        try:
            with trio.fail_after(timeout):
                frame = await self._incoming.receive()
        except trio.TooSlowError:
            raise StreamTimeout("no frame in time") from None
        except (trio.EndOfChannel, trio.ClosedResourceError) as error:
            raise StreamBroken("the stream stopped without END") from error
        if frame is None:
            self._received_end = True
        if isinstance(frame, tuple):
            raise RemoteError(*frame)
        if frame is not None and len(frame) > limit:
            raise MessageTooLarge("frame", len(frame), limit)
        return frame

    async def end(self) -> None:
        if not self._ended:
            self._ended = True
            await self._put(None, 5)

    async def fail(self, code: str, detail: str) -> None:
        if self._ended:
            return
        self._ended = True
        try:
            await self._put((code, detail), 5)
        except (StreamBroken, StreamTimeout):
            return

    async def aclose(self) -> None:
        self.vanish()

    def vanish(self) -> None:
        """Be gone without a word."""
        self._ended = True
        self._outgoing.close()
        self._incoming.close()

    async def _put(self, frame: Frame, timeout: float) -> None:
        try:
            with trio.fail_after(timeout):
                await self._outgoing.send(frame)
        except trio.TooSlowError:
            raise StreamTimeout("the peer took no frame in time") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamBroken("the peer is gone") from error


def stream_pair(capacity: int = 64) -> tuple[MemoryStream, MemoryStream]:
    """A user's and a provider's end; ``capacity`` frames are under way at most."""
    to_provider = trio.open_memory_channel[Frame](capacity)
    to_user = trio.open_memory_channel[Frame](capacity)
    return MemoryStream("provider", to_provider[0], to_user[1]), MemoryStream("user", to_user[0], to_provider[1])


async def listen(stream: MemoryStream) -> list[bytes | str]:
    """All that comes until END or ERROR; the error's code is last."""
    heard: list[bytes | str] = []
    try:
        while (data := await stream.receive(limit=1 << 20, timeout=60)) is not None:
            heard.append(data)
    except RemoteError as error:
        heard.append(error.code)
    return heard
