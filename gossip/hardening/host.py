"""Streams: opened under a deadline, accepted under guard.

Faults of the stock host: an exception in a stream's handler ends the process; opening a stream may block for ever;
identify runs unasked on every connection, in system tasks that nobody owns, for results that nothing here uses (it is
still answered, for other implementations). May go when the library guards handlers.
"""

import logging
import secrets
from collections import OrderedDict
from collections.abc import Sequence

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import ID as PING
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.identify import identify_handler_for
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID

from gossip.errors import StreamBroken
from gossip.hardening.negotiation import NegotiationFailed, accept, propose
from gossip.hardening.swarm import GuardedSwarm
from gossip.hardening.yamux_stream import YamuxStream

_log = logging.getLogger(__name__)

NEGOTIATION_DEADLINE = 10.0
"""Seconds in which the two sides must agree on a stream's protocol."""

_PING_SIZE = 32
_PING_IDLE = 60.0

LIBRARY_ERRORS = (BaseLibp2pError, OSError)
"""What the library raises when a stream or connection is gone."""


class StreamPipe:
    """A library stream as :class:`gossip.streams.Pipe`: one error for everything that went wrong."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        self._muxed = muxed_of(stream)

    async def read(self) -> bytes:
        """What there is, at least a byte. Raises :class:`StreamBroken`."""
        try:
            return await self._muxed.read()
        except LIBRARY_ERRORS as error:
            raise StreamBroken(str(error)) from error

    async def write(self, data: bytes) -> None:
        """All of it. Raises :class:`StreamBroken`."""
        try:
            await self._muxed.write(data)
        except LIBRARY_ERRORS as error:
            raise StreamBroken(str(error)) from error

    def finish(self) -> None:
        """Close this side."""
        self._muxed.finish()
        self._forget()

    def abort(self) -> None:
        """Reset."""
        self._muxed.abort()
        self._forget()

    def _forget(self) -> None:
        if isinstance(self._stream, NetStream) and self._stream.swarm_conn is not None:
            self._stream.swarm_conn.remove_stream(self._stream)


def muxed_of(stream: INetStream) -> YamuxStream:
    """Our stream below the library's."""
    if not isinstance(stream, NetStream) or not isinstance(stream.muxed_stream, YamuxStream):
        raise StreamBroken(f"not a yamux stream: {stream!r}")
    return stream.muxed_stream


class GuardedHost(BasicHost):
    """The stock host with those faults overridden."""

    def __init__(self, swarm: GuardedSwarm) -> None:
        protocols: OrderedDict[TProtocol, StreamHandlerFn] = OrderedDict({PING: self._answer_ping})
        super().__init__(swarm, default_protocols=protocols, disable_identify_address_discovery=True)
        self.set_stream_handler(IDENTIFY, identify_handler_for(self, use_varint_format=True))
        self.swarm = swarm
        self.handler_failures = 0
        """Streams whose handler raised."""

    async def new_stream(self, peer_id: ID, protocol_ids: Sequence[TProtocol]) -> INetStream:
        """A stream that speaks one of ``protocol_ids``. Raises what the library raises, or trio.TooSlowError."""
        with trio.fail_after(NEGOTIATION_DEADLINE):
            connection = self.swarm.live_connection(peer_id)
            if connection is None:
                raise SwarmException(f"{peer_id} is not connected")
            stream = await connection.new_stream()
            try:
                stream.set_protocol(TProtocol(await propose(stream.muxed_stream, protocol_ids)))
            except BaseException:
                StreamPipe(stream).abort()
                raise
            return stream

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        try:
            with trio.fail_after(NEGOTIATION_DEADLINE):
                wanted = await accept(muxed_of(net_stream), self.multiselect.handlers)  # type: ignore[arg-type]  # its keys are str
            handler = self.multiselect.handlers[TProtocol(wanted)]
            net_stream.set_protocol(TProtocol(wanted))
            if handler is None:
                raise NegotiationFailed(f"nobody handles {wanted}")
            await handler(net_stream)
        except (*LIBRARY_ERRORS, StreamBroken, trio.TooSlowError) as error:
            _log.debug("stream of %s ended: %r", net_stream.muxed_conn.peer_id, error)
            await net_stream.reset()
        except Exception as error:  # noqa: BLE001  # the supervisor of this stream: its handler's failure is its own
            self.handler_failures += 1
            _log.warning("stream of %s: %r", net_stream.muxed_conn.peer_id, error, exc_info=error)
            await net_stream.reset()

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:  # noqa: ARG002  # the library's signature
        return None

    async def _answer_ping(self, stream: INetStream) -> None:
        """Echo 32 bytes at a time, for as long as the peer asks."""
        wire = muxed_of(stream)
        try:
            while True:
                data = b""
                with trio.fail_after(_PING_IDLE):
                    while len(data) < _PING_SIZE:
                        data += await wire.read(_PING_SIZE - len(data))
                    await wire.write(data)
        finally:
            await stream.reset()

    async def ping(self, peer_id: ID) -> float:
        """One round trip in ms, over a stream of its own."""
        stream = await self.new_stream(peer_id, [PING])
        wire = muxed_of(stream)
        try:
            sent = trio.current_time()
            payload = secrets.token_bytes(_PING_SIZE)
            await wire.write(payload)
            answer = b""
            while len(answer) < _PING_SIZE:
                answer += await wire.read(_PING_SIZE - len(answer))
            if answer != payload:
                raise NegotiationFailed("the peer echoed something else")
            return (trio.current_time() - sent) * 1000
        finally:
            wire.finish()
            await stream.reset()
