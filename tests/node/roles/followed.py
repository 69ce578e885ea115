"""A made-up chain of certified batches, a node's public state that follows it, and all that the state knows."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import structlog

from consensus.market.ledger_state import Ledger, encode_ledger, rescue, state_root
from consensus.membership import Term, assemble_hand_over, hand_over_to
from consensus.tendermint.certificate import assemble_certificate
from contracts.signing import Key
from contracts.typed_data import ZERO_DIGEST, Uint256
from gossip.messages.committee import CertifiedBatch, DrawnMember, Precommit, batch_hash
from gossip.messages.session import Settlement
from node.context import Node, Topics
from node.roles.public import PublicState
from node.roles.snapshots import Snapshots
from node.store import open_store
from tests.consensus.builders import WEI, World, key, make_terms

OWNER = key("owner")
DAY = 100
NEWCOMERS = [key(f"newcomer {number}") for number in range(4)]
SAVED = 6, 11, 13, 15
"""Heights at which the log below is snapshot: a day's middle, a hand-over's own batch, the one after, a rescue's."""
END = 17


@dataclass
class Routed(World):
    """A world whose router is whoever the committee of a day says."""

    serving: Key | None = None

    @property
    def router(self) -> Key:
        return self.serving or super().router


@dataclass
class Chain:
    """A log of certified batches in which whatever a node remembers of batches comes to pass."""

    world: Routed = field(default_factory=lambda: Routed(make_terms(settle_window_slots=50)))
    batches: list[CertifiedBatch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = self.world.ledger()
        self.keys = {member.address: member for member in [*self.world.members, *NEWCOMERS]}

    def add(self, pending: Sequence[Settlement] = (), **options: Any) -> None:
        deciding = self.ledger.committee
        proposer = self.keys[deciding.members[1].address]
        reveal = ZERO_DIGEST if proposer in NEWCOMERS else None
        header, body, rejected = self.world.propose(self.ledger, pending, proposer=proposer, reveal=reveal, **options)
        assert not rejected
        vote = Precommit(header.height, 0, batch_hash(header), deciding.root)
        signed = {one.address: self.keys[one.address].sign(vote, self.world.domain) for one in deciding.members}
        certificate = assemble_certificate(header.height, 0, vote.batch_hash, deciding, signed)
        self.batches.append(CertifiedBatch(header, certificate, body))
        self.ledger = self.world.apply(self.ledger, header, body)

    def settle(self, slot: int) -> None:
        """A batch of two sessions, one of which failed."""
        height, day = self.ledger.height, self.world.terms.params.day_of(slot - 1)
        self.world.serving = self.keys[self.ledger.routers(day).members[0].address]
        made = [
            self.world.settlement(
                session=f"session {height} {number}", provider=f"provider {number}", slot=slot - 1, passed=number == 0
            )
            for number in range(2)
        ]
        self.add(made, slot=slot)

    def hand_over(self) -> None:
        """The running committee relieves itself."""
        assert self.ledger.drawn is not None
        told = hand_over_to(self.ledger.drawn, self.ledger.running)
        signatures = {
            one.address: self.keys[one.address].sign(told, self.world.domain) for one in self.ledger.running.members
        }
        self.add(slot=self.ledger.slot + 1, hand_over=assemble_hand_over(told, self.ledger.running, signatures))


def drawn(keys: Sequence[Key], stake: int) -> tuple[DrawnMember, ...]:
    return tuple(DrawnMember(who, Uint256(stake)) for who in sorted(one.address for one in keys))


@cache
def chain() -> Chain:
    made = Chain()
    world = made.world
    for slot in range(10, 90, 10):
        made.settle(slot)  # heights 1 to 8
    made.add(slot=DAY, opening=world.opening(1, drawn=drawn(NEWCOMERS, 2_000 * WEI)))
    made.settle(DAY + 10)
    made.hand_over()  # height 11
    made.settle(DAY + 20)
    made.add(slot=2 * DAY, opening=world.opening(2))
    made.settle(2 * DAY + 10)
    made.ledger = rescue(made.ledger, Term(7, drawn(world.members, 5 * WEI)).committee)
    made.settle(2 * DAY + 20)  # height 15
    made.add(slot=3 * DAY, opening=world.opening(3))
    made.settle(3 * DAY + 10)
    assert made.ledger.height == END
    return made


class Log:
    """What a node logs: event, and the height and field that it names."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any, Any]] = []
        self.begun: list[int] = []

    def _say(self, event: str, **values: Any) -> None:
        self.said.append((event, values.get("height"), values.get("field")))
        if event == "stored batches followed":
            self.begun.append(values["snapshot"])

    debug = info = warning = error = _say

    def refused(self) -> list[tuple[int, str]]:
        return [(height, named) for event, height, named in self.said if event == "snapshot is not believed"]


@dataclass
class Begun:
    """A node's public state after a start."""

    node: Node
    public: PublicState
    snapshots: Snapshots
    log: Log


@asynccontextmanager
async def begun(path: Path, owner: Key = OWNER, genesis: Ledger | None = None) -> AsyncIterator[Begun]:
    """A start on the store at ``path``, and no network: nothing here asks for one."""
    world, log = chain().world, Log()
    genesis = genesis or world.ledger()
    async with open_store(path) as store:
        node = Node(
            config=cast("Any", None),
            terms=world.terms,
            key=owner,
            network=cast("Any", None),
            store=store,
            chain=None,
            topics=Topics.of(world.domain),
            log=cast("structlog.stdlib.BoundLogger", log),
        )
        public = PublicState(node, genesis)
        kept = Snapshots(node, public, genesis)
        await kept.start()
        yield Begun(node, public, kept, log)


async def adopt(one: Begun, upto: int) -> None:
    for batch in chain().batches[one.public.ledger.height : upto]:
        if (told := batch.body.rescue) is not None:
            one.public.note_rescue(Term(told.epoch, told.members).committee)
        assert await one.public.adopt(batch)


async def lived(path: Path, saved: Sequence[int] = SAVED) -> None:
    """A node that has followed the whole chain and has taken snapshots at ``saved``."""
    async with begun(path) as one:
        for height in saved:
            await adopt(one, height)
            await one.snapshots.take()
        await adopt(one, END)


def known(public: PublicState) -> dict[str, Any]:
    """All that a node knows from following batches; a new attribute of the state must be sorted in here."""
    told = dict(vars(public))
    for not_followed in ("_node", "_adopting", "book", "bids", "reveals", "on_batch", "heard_height", "following"):
        del told[not_followed]
    ledger, beacons, history = told.pop("ledger"), told.pop("beacons"), told.pop("history")
    return told | {
        "ledger": encode_ledger(ledger),
        "root": state_root(ledger),
        "beacons": [(beacon, dict(points)) for beacon, points in beacons.items()],
        "days": dict(history.days),
    }


async def replayed(path: Path) -> dict[str, Any]:
    """What the store's batches lead to from genesis on."""
    async with begun(path) as one:
        for height in await one.node.store.snapshot_heights():
            await one.node.store.drop_snapshot(height)
        whole = PublicState(one.node, chain().world.ledger())
        await whole.replay()
        return known(whole)


@cache
def state_at(height: int) -> Ledger:
    """The ledger at ``height``."""
    ledger = chain().world.ledger()
    for batch in chain().batches[:height]:
        if (told := batch.body.rescue) is not None:
            ledger = rescue(ledger, Term(told.epoch, told.members).committee)
        ledger = chain().world.apply(ledger, batch.header, batch.body)
    return ledger
