"""The committee of an epoch: members, stakes, quorum and whose turn it is to propose. Pure."""

import msgspec
from eth_abi.abi import encode as abi_encode
from eth_hash.auto import keccak

from contracts.typed_data import Address, Digest


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One participant and its voting power (stake in wei)."""

    address: Address
    stake: int


class Committee(msgspec.Struct, frozen=True):
    """Members sorted by address; the contract's registry holds the same list under the same root."""

    epoch: int
    members: tuple[Member, ...]

    @classmethod
    def of(cls, epoch: int, members: list[Member]) -> "Committee":
        """A committee with its members in canonical order."""
        return cls(epoch, tuple(sorted(members, key=lambda member: member.address)))

    @property
    def total(self) -> int:
        """All stake, in wei."""
        return sum(member.stake for member in self.members)

    @property
    def root(self) -> Digest:
        """keccak(abi.encode(epoch, addresses, stakes)), as contracts/registry.vy computes it."""
        return Digest(
            keccak(
                abi_encode(
                    ["uint256", "address[]", "uint256[]"],
                    [self.epoch, [m.address for m in self.members], [m.stake for m in self.members]],
                )
            )
        )

    def weight(self, address: Address) -> int:
        """A member's stake in wei; 0 for anybody else."""
        return next((member.stake for member in self.members if member.address == address), 0)

    def is_quorum(self, weight: int) -> bool:
        """More than two thirds of all stake: exactly two thirds is none."""
        return 3 * weight > 2 * self.total

    def proposer(self, height: int, round_: int) -> Address:
        """Whose turn it is in ``round_`` of ``height``."""
        return self.members[(height + round_) % len(self.members)].address
