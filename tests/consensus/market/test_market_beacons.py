"""Beacons and the points that went with each: what a snapshot keeps of them is what matches were checked against."""

import random

from msgspec.structs import replace

from consensus.market.beacons import BEACONS, Beacons
from consensus.market.penalties import Penalties, Penalty
from contracts.typed_data import Address, Digest
from gossip.messages import encode
from tests.consensus.builders import World, address, named_digest

SEED = 7


def shown(beacons: Beacons) -> list[tuple[Digest, dict[Address, int]]]:
    return [(beacon, dict(points)) for beacon, points in beacons.items()]


def walked(steps: int, providers: int) -> Beacons:
    """Beacons of batches in which points come, stay, and halve from one day to the next."""
    drawn = random.Random(SEED)
    ledger, beacons = World().ledger(), Beacons()
    penalties = Penalties({}, 0)
    for number in range(steps):
        penalties = penalties.on(number // 7)
        who = address(f"provider {drawn.randrange(providers)}")
        held = penalties.today(who)
        failed_t = held.failed_t + drawn.choice((0, 0, 0, 10))
        penalties = penalties.with_written({who: Penalty(held.points, held.day, failed_t, held.told_t + 10)})
        beacon = named_digest(f"beacon {number}")
        beacons.note(replace(ledger, beacon=beacon, penalties=penalties, day=penalties.day))
    return beacons


def test_a_snapshot_keeps_every_beacon_with_its_points() -> None:
    beacons = walked(100, 40)
    assert any(points for _, points in shown(beacons)), "somebody failed"
    kept = Beacons.of(beacons.steps())
    assert shown(kept) == shown(beacons)
    assert shown(Beacons.of(kept.steps())) == shown(beacons), "and so does a snapshot of a node that began with one"


def test_it_writes_what_changes_and_not_what_there_is() -> None:
    beacons, ledger = walked(50, 1_000), World().ledger()
    many = Penalties({address(f"one {number}"): Penalty(50, 1) for number in range(1_000)}, 1)
    steady = Beacons()
    for number in range(50):
        steady.note(replace(ledger, beacon=named_digest(str(number)), penalties=many, day=1))
    assert sum(len(step.changed) for step in steady.steps()) == 1_000
    assert sum(len(step.changed) for step in beacons.steps()) <= 50
    assert len(b"".join(map(encode, steady.steps()))) < 40_000


def test_a_copy_stays_as_it_is_and_the_oldest_go_first() -> None:
    ledger, beacons = World().ledger(), Beacons()
    beacons.note(ledger)
    kept = beacons.copy()
    for number in range(BEACONS):
        beacons.note(replace(ledger, beacon=named_digest(str(number))))
    assert list(kept) == [ledger.beacon]
    assert len(beacons) == BEACONS
    assert ledger.beacon not in beacons
