"""Settlements between members: told in bundles, checked a few at a time, and asked for where a proposal names them."""

import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import trio

from consensus.errors import ConsensusError
from consensus.market.errors import MarketError, SettlementInvalid
from consensus.market.settlement import VerifiedSettlements
from consensus.member.short import Answers, ShortProposals, check_short, shorten
from contracts.typed_data import Address
from gossip.errors import MessageError
from gossip.messages.base import Signed
from gossip.messages.committee import (
    MAX_TOLD,
    BatchBody,
    LinkFrame,
    Proposal,
    ProposalFrame,
    SettlementFrame,
    SettlementsFrame,
    ShortProposalFrame,
    WantFrame,
)
from gossip.messages.session import Settlement
from node.context import Node
from node.roles.turns import check_in_turns

GATHER_S = 0.1
"""How long a settlement may wait for others to travel with."""

MANY, GATHER_MORE_S = 8, 0.2
"""Where so many came meanwhile, they wait so much longer: a frame to each member costs more than what is in it."""

BACKLOG = 512
"""Frames with settlements that wait to be checked. Past that they are dropped: they will be told again, and the votes
behind them must not wait."""

MAX_PASSED_ON = 1_024
"""Proposals of one height that are remembered as put together."""

PASS_ON_AGAIN_S = 10.0
"""A proposal that is told again is put together again after so long, for a core that could not use it before."""

Heard = Callable[[tuple[Settlement, ...]], Awaitable[None]]
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
        self._told: deque[tuple[Address, SettlementsFrame]] = deque()
        self._wanted: deque[tuple[Address, SettlementsFrame]] = deque()
        self._has_told = trio.Event()
        self._proposals = ShortProposals(verified.find)
        self._passed_on: dict[Signed[Proposal], float] = {}
        """When proposals of this height were put together last: a busy core is told of them again each second."""
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
            nursery.start_soon(self._take_all)

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

        What a proposal waits for has a queue of its own, and goes first.
        """
        queue = self._wanted if self._proposals.wants(frame.settlements) else self._told
        if len(queue) >= BACKLOG:
            self.dropped += 1
            return
        queue.append((member, frame))
        self._has_told.set()

    async def learn(self, settlements: Sequence[Settlement]) -> None:
        """Check those that are new; what does not hold is not remembered."""
        async for _ in check_in_turns(self._verified, settlements):
            pass

    async def begin(self, member: Address, frame: ShortProposalFrame) -> None:
        """A proposal that names its settlements. Raises :class:`~gossip.errors.MessageError`."""
        check_short(member, frame, self._node.terms.domain)
        if trio.current_time() < self._passed_on.get(frame.proposal, -math.inf) + PASS_ON_AGAIN_S:
            return
        found = self._proposals.begin(member, frame)
        if isinstance(found, WantFrame):
            self._tell(found, member)
        else:
            await self._pass_on(member, found)

    def answer(self, member: Address, want: WantFrame, body: BatchBody) -> None:
        """Send what ``member`` lacks of a batch."""
        for frame in self._answers.answer(member, want, body):
            self._tell(frame, member)

    async def note(self, settlements: Sequence[Settlement]) -> None:
        """Settlements were found good: proposals may be whole with them."""
        for settlement in settlements:
            for member, frame in tuple(self._proposals.take(settlement)):
                await self._pass_on(member, frame)

    async def _pass_on(self, member: Address, frame: ProposalFrame) -> None:
        if len(self._passed_on) < MAX_PASSED_ON:
            self._passed_on[frame.proposal] = trio.current_time()
        await self._whole(member, frame)

    def clear(self) -> None:
        """The height was decided."""
        self._proposals.clear()
        self._answers.clear()
        self._passed_on.clear()
        self._last_short = None

    async def _take_all(self) -> None:
        while True:
            await self._has_told.wait()
            while queue := self._wanted or self._told:
                member, frame = queue.popleft()
                try:
                    await self._take(frame)
                except (MessageError, MarketError, ConsensusError) as error:
                    self._failed(member, frame, error)
            self._has_told = trio.Event()

    async def _take(self, frame: SettlementsFrame) -> None:
        good: list[Settlement] = []
        wrong: SettlementInvalid | None = None
        async for settlement, error in check_in_turns(self._verified, frame.settlements):
            if error is None:
                good.append(settlement)
            else:
                wrong = wrong or error
        if good:
            await self._heard(tuple(good))
            await self.note(good)
        if wrong is not None:
            raise wrong

    async def _tell_bundles(self) -> None:
        while True:
            await self._has_untold.wait()
            await trio.sleep(GATHER_S)
            if MANY <= len(self._untold) < MAX_TOLD:
                await trio.sleep(GATHER_MORE_S)
            untold, self._untold, self._has_untold = self._untold, [], trio.Event()
            for some in _parts(untold, MAX_TOLD):
                self._tell(SettlementFrame(some[0]) if len(some) == 1 else SettlementsFrame(some), None)


def _parts(settlements: Sequence[Settlement], count: int) -> list[tuple[Settlement, ...]]:
    """``settlements`` in order, ``count`` at a time."""
    return [tuple(settlements[begin : begin + count]) for begin in range(0, len(settlements), count)]
