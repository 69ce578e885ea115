"""The committee of an epoch: members, stakes, quorum and whose turn it is to propose. Pure."""

from functools import cached_property, lru_cache
from math import gcd

import msgspec
from eth_abi.abi import encode as abi_encode
from eth_hash.auto import keccak

from contracts.typed_data import Address, Digest

SEATS = 256
"""About so many turns make a full rotation of proposers; stakes are rounded to this grain."""


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One participant and its voting power (stake in wei)."""

    address: Address
    stake: int


class Committee(msgspec.Struct, frozen=True, dict=True, cache_hash=True):
    """Members sorted by address; the contract's registry holds the same list under the same root."""

    epoch: int
    members: tuple[Member, ...]

    @classmethod
    def of(cls, epoch: int, members: list[Member]) -> "Committee":
        """A committee with its members in canonical order."""
        return cls(epoch, tuple(sorted(members, key=lambda member: member.address)))

    @cached_property
    def total(self) -> int:
        """All stake, in wei."""
        return sum(member.stake for member in self.members)

    @cached_property
    def root(self) -> Digest:
        """keccak(abi.encode(epoch, addresses, stakes)), as contracts/registry.vy computes it."""
        return committee_root(self)

    @cached_property
    def _stakes(self) -> dict[Address, int]:
        """Asked for with every vote; where an address stands twice, its first stake counts."""
        return {member.address: member.stake for member in reversed(self.members)}

    def weight(self, address: Address) -> int:
        """A member's stake in wei; 0 for anybody else."""
        return self._stakes.get(address, 0)

    def is_quorum(self, weight: int) -> bool:
        """More than two thirds of all stake: exactly two thirds is none."""
        return 3 * weight > 2 * self.total

    def is_third(self, weight: int) -> bool:
        """More than one third of all stake: not all of it can be faulty."""
        return 3 * weight > self.total

    def proposer(self, height: int, round_: int) -> Address:
        """Whose turn it is in ``round_`` of ``height``: turn ``height + round_`` of the rotation.

        In any full rotation (at most about :data:`SEATS` turns) a member has turns in proportion to its stake, spread
        evenly, and at least one; with equal stakes that is plain rotation by address.
        """
        return self._turns[(height + round_) % len(self._turns)]

    @cached_property
    def _turns(self) -> tuple[Address, ...]:
        return rotation(self.members)


@lru_cache(maxsize=16)
def committee_root(committee: Committee) -> Digest:
    """See :attr:`Committee.root`; every precommit names it, and it takes 0.2 ms to encode."""
    addresses = [member.address for member in committee.members]
    stakes = [member.stake for member in committee.members]
    return Digest(keccak(abi_encode(["uint256", "address[]", "uint256[]"], [committee.epoch, addresses, stakes])))


@lru_cache(maxsize=16)
def rotation(members: tuple[Member, ...]) -> tuple[Address, ...]:
    """One full rotation of proposers: weighted round robin.

    Every turn each member gains its seats in credit, and the one with the most credit (the lowest address among
    equals) proposes and pays all seats. After as many turns as there are seats all credits are zero again.
    """
    total = sum(member.stake for member in members)
    seats = [max(1, (member.stake * SEATS + total // 2) // total) for member in members]
    grain = gcd(*seats)
    seats = [count // grain for count in seats]
    credit = [0] * len(seats)
    turns = []
    for _ in range(sum(seats)):
        credit = [owned + gained for owned, gained in zip(credit, seats, strict=True)]
        turn = credit.index(max(credit))
        credit[turn] -= sum(seats)
        turns.append(members[turn].address)
    return tuple(turns)
