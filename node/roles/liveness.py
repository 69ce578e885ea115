"""Liveness checks over warm streams: one stream to each provider, opened before it is needed (S28)."""

import trio

from contracts.typed_data import Digest
from gossip.errors import GossipError, StreamBroken, TransportError
from gossip.messages import Signed, decode, encode, sign
from gossip.messages.market import LivenessAnswer, LivenessQuery
from gossip.messages.records import NodeRecord
from gossip.patience import within
from gossip.streams import FrameStream
from gossip.topics import LIVENESS
from node.context import Node, now_ms


class _Line:
    """The stream to one provider; one question at a time."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.stream: FrameStream | None = None


class Liveness:
    """Asks providers whether they can serve now."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lines: dict[str, _Line] = {}

    async def check(self, provider: Signed[NodeRecord], rfc_id: Digest, bid_id: Digest) -> bool:
        """Whether the provider has a free slot, said within the network's liveness deadline."""
        try:
            return await within(self._deadline_s, self._ask, provider, rfc_id, bid_id) > 0
        except (GossipError, trio.TooSlowError) as error:
            reason = str(error) or "no answer in time"
            self._node.log.info("not live", provider=provider.payload.address.hex(), reason=reason)
            return False

    async def warm(self, providers: list[Signed[NodeRecord]]) -> None:
        """Open the streams that are missing, so that a match doesn't wait for a dial."""
        for provider in providers:
            line = self._line(provider)
            if line.stream is None and not line.lock.locked():
                try:
                    async with line.lock:
                        line.stream = await self._open(provider, timeout=5)
                except TransportError as error:
                    self._node.log.debug("provider not reachable", reason=str(error))

    def _line(self, provider: Signed[NodeRecord]) -> _Line:
        return self._lines.setdefault(provider.payload.peer_id, _Line())

    async def _ask(self, provider: Signed[NodeRecord], rfc_id: Digest, bid_id: Digest) -> int:
        domain, address = self._node.terms.domain, provider.payload.address
        query = sign(LivenessQuery(rfc_id, bid_id, self._node.address, now_ms()), self._node.key, domain)
        answer = await self._exchange(provider, encode(query))
        if answer.signer(domain) != address or answer.payload.query_id != query.id(domain):
            raise TransportError(f"0x{address.hex()} answered another question")
        return answer.payload.free_slots

    async def _exchange(self, provider: Signed[NodeRecord], question: bytes) -> Signed[LivenessAnswer]:
        line = self._line(provider)
        async with line.lock:
            if line.stream is not None:
                try:
                    return await self._put(line, line.stream, question)
                except StreamBroken as error:  # by a provider that restarted, or that let go of a silent stream
                    self._node.log.debug("warm stream was gone", reason=str(error))
            line.stream = await self._open(provider, timeout=self._deadline_s)
            return await self._put(line, line.stream, question)

    async def _put(self, line: _Line, stream: FrameStream, question: bytes) -> Signed[LivenessAnswer]:
        """Ask on the line's stream, which is given up where no answer came."""
        finished = False
        try:
            await stream.send(question, timeout=self._deadline_s)
            data = await stream.receive(limit=1_024, timeout=self._deadline_s)
            finished = data is not None
        finally:
            # A question without its answer would make the next answer the wrong one.
            if not finished:
                line.stream = None
                await stream.aclose()
        return decode(Signed[LivenessAnswer], data or b"")

    @property
    def _deadline_s(self) -> float:
        return self._node.terms.params.liveness_ms / 1_000

    async def _open(self, provider: Signed[NodeRecord], timeout: float) -> FrameStream:  # passed on
        record = provider.payload
        if not self._node.network.is_connected(record.peer_id):
            await self._node.network.connect(record.multiaddrs, timeout=timeout)
        return await self._node.network.open_stream(record.peer_id, LIVENESS, timeout=timeout)
