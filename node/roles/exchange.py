"""Settlements between members: told in bundles, checked a few at a time, and asked for where a proposal names them.

Checking ten thousand settlements takes seconds, so it goes on in turns of a few ms between which the event loop runs.
Threads would be no faster: whoever checks gives the interpreter's lock away with each signature, and waits 5 ms for it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import trio

from consensus.errors import ConsensusError
from consensus.market.errors import MarketError, SettlementInvalid
from consensus.market.settlement import VerifiedSettlements
from consensus.member.short import Answers, ShortProposals, check_short, shorten
from contracts.typed_data import Address
from gossip.errors import MessageError
from gossip.messages.committee import (
    MAX_TOLD,
    BatchBody,
    LinkFrame,
    ProposalFrame,
    SettlementFrame,
    SettlementsFrame,
    ShortProposalFrame,
    WantFrame,
)
from gossip.messages.session import Settlement
from node.context import Node

GATHER_S = 0.1
"""How long a settlement may wait for others to travel with."""

BACKLOG = 512
"""Frames with settlements that wait to be checked. Past that they are dropped: they will be told again, and the votes
behind them must not wait."""

TURN_S = 0.005
"""How long signatures are checked before everything else has its turn."""

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
        self._wanted_in, self._wanted_out = trio.open_memory_channel[tuple[Address, SettlementsFrame]](BACKLOG)
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
            nursery.start_soon(self._take_all, self._wanted_out)
            nursery.start_soon(self._take_all, self._out)

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
        """Take settlements, to be checked when it is their turn; dropped where too many wait.

        What a proposal waits for has a queue of its own.
        """
        channel = self._wanted_in if self._proposals.wants(frame.settlements) else self._in
        try:
            channel.send_nowait((member, frame))
        except trio.WouldBlock:
            self.dropped += 1

    async def learn(self, settlements: Sequence[Settlement]) -> None:
        """Check those that are new; what does not hold is not remembered."""
        async for _ in self._check(settlements):
            pass

    async def begin(self, member: Address, frame: ShortProposalFrame) -> None:
        """A proposal that names its settlements. Raises :class:`~gossip.errors.MessageError`."""
        check_short(member, frame, self._node.terms.domain)
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

    async def _take_all(self, frames: trio.MemoryReceiveChannel[tuple[Address, SettlementsFrame]]) -> None:
        async for member, frame in frames:
            try:
                await self._take(frame)
            except (MessageError, MarketError, ConsensusError) as error:
                self._failed(member, frame, error)

    async def _take(self, frame: SettlementsFrame) -> None:
        wrong: SettlementInvalid | None = None
        async for settlement, error in self._check(frame.settlements):
            if error is not None:
                wrong = wrong or error
                continue
            await self._heard(settlement)
            await self.note(settlement)
        if wrong is not None:
            raise wrong

    async def _check(
        self, settlements: Sequence[Settlement]
    ) -> AsyncIterator[tuple[Settlement, SettlementInvalid | None]]:
        """Those that are new, checked and remembered, with what is wrong with them."""
        began = trio.current_time()
        for settlement in settlements:
            if settlement in self._verified:
                continue
            if trio.current_time() > began + TURN_S:
                await trio.lowlevel.checkpoint()
                began = trio.current_time()
            try:
                self._verified(settlement)
            except SettlementInvalid as error:
                yield settlement, error
            else:
                yield settlement, None

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
