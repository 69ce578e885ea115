"""The last beacons, and the penalty points that went with each: what a match is checked against.

The ledger holds the newest beacon and today's points alone; a match names the beacon that its router knew. Whoever
follows the batches keeps this beside the ledger, in a snapshot too; no rule of the ledger reads it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from consensus.market.ledger_state import Ledger
from consensus.market.penalties import Penalties, Penalty
from consensus.market.trie import Trie
from contracts.typed_data import Address, Digest

BEACONS = 1_000
"""Beacons remembered; the oldest go first."""

NONE: Mapping[Digest, Penalties] = {}


class BeaconStep(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A beacon in a snapshot: its day, and the penalties whose points are not what the one before leads to."""

    beacon: Digest
    day: int
    changed: Mapping[Address, Penalty]


class Beacons(Mapping[Digest, Mapping[Address, int]]):
    """Points by provider, by beacon, oldest first."""

    def __init__(self, held: Mapping[Digest, Penalties] = NONE) -> None:
        self._held = OrderedDict(held)

    def note(self, ledger: Ledger) -> None:
        """A batch has left ``ledger`` behind."""
        self._held[ledger.beacon] = Penalties.of(ledger.penalties, ledger.day)
        while len(self._held) > BEACONS:
            self._held.popitem(last=False)

    def __getitem__(self, beacon: Digest) -> Mapping[Address, int]:
        return self._held[beacon]

    def __iter__(self) -> Iterator[Digest]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def copy(self) -> "Beacons":
        """The same, which stays as it is while this one goes on."""
        return Beacons(self._held)

    def steps(self) -> tuple[BeaconStep, ...]:
        """For a snapshot. Only changes of points are written: what stands behind equal points tells a match nothing."""
        made = []
        said, before = Penalties({}, 0), Trie[Address, Penalty]()
        for beacon, held in self._held.items():
            written = Trie.of(held.written)
            said = said.on(held.day)
            changed = {
                provider: held.today(provider)
                for provider in written.changed_since(before)
                if said.get(provider, 0) != held.get(provider, 0)
            }
            made.append(BeaconStep(beacon, held.day, changed))
            said, before = said.with_written(changed), written
        return tuple(made)

    @classmethod
    def of(cls, steps: Iterable[BeaconStep]) -> "Beacons":
        """From a snapshot."""
        held: dict[Digest, Penalties] = {}
        said = Penalties({}, 0)
        for step in steps:
            said = said.on(step.day).with_written(step.changed)
            held[step.beacon] = said
        return cls(held)
