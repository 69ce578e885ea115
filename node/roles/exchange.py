"""Settlements between members: told in bundles, checked in worker threads, and asked for where a proposal names them.

The event loop never waits for a signature: checking ten thousand settlements takes seconds.
"""

from collections.abc import Awaitable, Callable, Sequence

import trio

from consensus.market.errors import SettlementInvalid
from consensus.market.settlement import VerifiedIds, VerifiedSettlements
from consensus.member.short import Answers, ShortProposals, shorten
from contracts.typed_data import Address
from gossip.errors import MalformedMessage
from gossip.messages.committee import (
    MAX_TOLD,
    BatchBody,
    LinkFrame,
    ProposalFrame,
    SettlementFrame,
    SettlementsFrame,
    ShortProposalFrame,
    WantFrame,
    batch_hash,
)
from gossip.messages.session import Settlement
from node.context import Node

GATHER_S = 0.1
"""How long a settlement may wait for others to travel with."""

BACKLOG = 512
"""Frames with settlements that wait to be checked. Past that they are dropped: they will be told again, and the votes
behind them must not wait."""

CHECKERS = 2
"""Threads that check signatures: libsecp256k1 lets others run meanwhile."""

Heard = Callable[[Settlement], Awaitable[None]]
Whole = Callable[[Address, ProposalFrame], Awaitable[None]]
Tell = Callable[[LinkFrame, Address | None], None]


class SettlementExchange:
    """One member's. ``heard`` takes settlements whose signatures hold, ``whole`` proposals that were put together,
    ``failed`` says what was wrong with a frame, and ``tell`` sends."""

    def __init__(
        self,
        node: Node,
        verified: VerifiedSettlements,
        *,
        tell: Tell,
        heard: Heard,
        whole: Whole,
        failed: Callable[[Address, LinkFrame, Exception], None],
    ) -> None:
        self._node = node
        self._verified = verified
        self._tell, self._heard, self._whole, self._failed = tell, heard, whole, failed
        self._in, self._out = trio.open_memory_channel[tuple[Address, SettlementsFrame]](BACKLOG)
        self._limiter = trio.CapacityLimiter(CHECKERS)
        self._proposals = ShortProposals(verified.find)
        self._answers = Answers()
        self.dropped = 0
        """Frames that found too many others waiting."""
        self._untold: list[Settlement] = []
        self._has_untold = trio.Event()
        self._last_short: ProposalFrame | ShortProposalFrame | None = None

    async def run(self) -> None:
        """Tell and check, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_bundles)
            async for member, frame in self._out:
                try:
                    await self._take(frame)
                except SettlementInvalid as error:
                    self._failed(member, frame, error)

    def tell(self, settlement: Settlement) -> None:
        """Tell all other members of a settlement, together with others that come soon."""
        self._untold.append(settlement)
        self._has_untold.set()

    def short(self, frame: ProposalFrame) -> ProposalFrame | ShortProposalFrame:
        """A proposal as it travels; worked out once, for it is said again to whoever may have missed it."""
        if self._last_short is None or self._last_short.proposal != frame.proposal:
            self._last_short = shorten(frame)
        return self._last_short

    def hear(self, member: Address, frame: SettlementsFrame) -> None:
        """Take settlements, to be checked when it is their turn; dropped where too many wait."""
        try:
            self._in.send_nowait((member, frame))
        except trio.WouldBlock:
            self.dropped += 1

    async def learn(self, settlements: Sequence[Settlement]) -> None:
        """Check those that are new in worker threads. What does not hold is not remembered."""
        fresh = [settlement for settlement in settlements if settlement not in self._verified]
        for some in _parts(fresh, MAX_TOLD):
            found, _ = await self._check(some)
            for settlement, ids in found:
                self._verified.note(settlement, ids)

    async def begin(self, member: Address, frame: ShortProposalFrame) -> None:
        """A proposal that names its settlements. Raises :class:`~gossip.errors.MessageError`."""
        proposal = frame.proposal
        if proposal.signer(self._node.terms.domain) != member:
            raise MalformedMessage("ShortProposalFrame", "its proposer is not the member that sent it")
        if proposal.payload.batch_hash != batch_hash(frame.header):
            raise MalformedMessage("ShortProposalFrame", "the batch is another than the proposal names")
        found = self._proposals.begin(member, frame)
        if isinstance(found, WantFrame):
            self._tell(found, member)
        else:
            await self._whole(member, found)

    def answer(self, member: Address, want: WantFrame, body: BatchBody) -> None:
        """Send what ``member`` lacks of a batch."""
        for frame in self._answers.answer(member, want, body):
            self._tell(frame, member)

    async def note(self, settlement: Settlement) -> None:
        """A settlement was found good: proposals may be whole with it."""
        for member, frame in tuple(self._proposals.take(settlement)):
            await self._whole(member, frame)

    def clear(self) -> None:
        """The height was decided."""
        self._proposals.clear()
        self._answers.clear()
        self._last_short = None

    async def _take(self, frame: SettlementsFrame) -> None:
        fresh = [settlement for settlement in frame.settlements if settlement not in self._verified]
        found, wrong = await self._check(fresh)
        for settlement, ids in found:
            self._verified.note(settlement, ids)
            await self._heard(settlement)
            await self.note(settlement)
        if wrong is not None:
            raise wrong

    async def _check(
        self, settlements: Sequence[Settlement]
    ) -> tuple[list[tuple[Settlement, VerifiedIds]], SettlementInvalid | None]:
        """Those that hold, and what is wrong with the first that does not."""

        def work() -> tuple[list[tuple[Settlement, VerifiedIds]], SettlementInvalid | None]:
            found, wrong = [], None
            for settlement in settlements:
                try:
                    found.append((settlement, self._verified.check(settlement)))
                except SettlementInvalid as error:
                    wrong = wrong or error
            return found, wrong

        return await trio.to_thread.run_sync(work, limiter=self._limiter)

    async def _tell_bundles(self) -> None:
        while True:
            await self._has_untold.wait()
            await trio.sleep(GATHER_S)
            untold, self._untold, self._has_untold = self._untold, [], trio.Event()
            for some in _parts(untold, MAX_TOLD):
                self._tell(SettlementFrame(some[0]) if len(some) == 1 else SettlementsFrame(some), None)


def _parts(settlements: Sequence[Settlement], count: int) -> list[tuple[Settlement, ...]]:
    """``settlements`` in order, ``count`` at a time."""
    return [tuple(settlements[begin : begin + count]) for begin in range(0, len(settlements), count)]
