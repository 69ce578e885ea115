"""An operator's own transactions with the registry: stake, unstake, withdraw, hand over, rescue. Blocking.

A router sends none of these (S12): its operator does, by ``yellowstone committee``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.signing import Key
from contracts.typed_data import Address, Signature
from node import keys
from node.config import NodeFile, load_network, load_node
from node.errors import AmountInvalid, ChainMismatch, ConfigInvalid
from node.recursion import kept_recursion_limit

if TYPE_CHECKING:
    from contracts.bindings import Mor, Registry

WEI = 10**18
DECIMALS = 18


@dataclass(frozen=True, slots=True)
class HandOverCall:
    """What the registry's ``hand_over`` takes, with the epoch that it ends."""

    epoch: int
    day: int
    members: tuple[tuple[Address, int], ...]
    signatures: tuple[Signature, ...]


class Staking:
    """One operator's account and the registry of its network.

    Every method raises :class:`~contracts.errors.ChainUnavailable` and
    :class:`~contracts.errors.TransactionReverted` with the registry's reason.
    """

    def __init__(self, key: Key, mor: "Mor", registry: "Registry", say: Callable[[str], None]) -> None:
        self._key = key
        self._mor = mor
        self._registry = registry
        self._say = say

    @property
    def epoch(self) -> int:
        """The registry's newest epoch."""
        return self._registry.epoch()

    def join(self, amount: int) -> None:
        """Stake ``amount`` wei; who has staked is drawn when the next day opens."""
        held = self._mor.balance_of(self._key.address)
        if held < amount:
            raise AmountInvalid(f"{show(amount)} MOR", f"0x{self._key.address.hex()} holds {show(held)}")
        self._mor.approve(self._key, self._registry.address, amount)
        receipt = self._registry.stake(self._key, amount)
        self._say(f"staked        {show(amount)} MOR, transaction 0x{receipt.tx_hash.hex()}")
        self._say(f"bonded        {show(self._registry.stake_of(self._key.address))} MOR")
        self._say("counts        from the draw of the next day's opening and the hand-over after it")

    def leave(self, amount: int | None) -> None:
        """Begin to take ``amount`` wei out; everything where it is None."""
        bonded = self._registry.stake_of(self._key.address)
        wanted = bonded if amount is None else amount
        if wanted == 0 or wanted > bonded:
            raise AmountInvalid(f"{show(wanted)} MOR", f"0x{self._key.address.hex()} has {show(bonded)} bonded")
        receipt = self._registry.unstake(self._key, wanted)
        self._say(f"unstaked      {show(wanted)} MOR, transaction 0x{receipt.tx_hash.hex()}")
        self._say(f"bonded        {show(self._registry.stake_of(self._key.address))} MOR")
        self._say(
            f"ready         {self._registry.unbonding_s()} s after this, or after the last epoch in the committee"
        )
        self._say("keep running  until another committee has taken over: your stake stands behind it until then")

    def withdraw(self) -> None:
        """Take out what was unstaked, once the wait is over."""
        amount = self._registry.unbonding(self._key.address)
        receipt = self._registry.withdraw(self._key)
        self._say(f"withdrawn     {show(amount)} MOR, transaction 0x{receipt.tx_hash.hex()}")

    def hand_over(self, calls: Sequence[HandOverCall]) -> None:
        """Bring the registry the hand-overs that it lacks, in their order."""
        for call in sorted(calls, key=lambda call: call.epoch):
            if call.epoch == self._registry.epoch():
                receipt = self._registry.hand_over(self._key, call.day, call.members, call.signatures)
                self._say(f"handed over   to epoch {call.epoch + 1}, transaction 0x{receipt.tx_hash.hex()}")
        self._say(f"epoch         {self._registry.epoch()}")

    def rescue(self) -> None:
        """Announce a rescue or, where one was announced and the notice is over, carry it out."""
        if self._registry.announced_s() > self._registry.progress_s():
            receipt = self._registry.rescue(self._key)
            self._say(f"rescued       epoch {self._registry.epoch()}, transaction 0x{receipt.tx_hash.hex()}")
            return
        receipt = self._registry.announce_rescue(self._key)
        self._say(f"announced     transaction 0x{receipt.tx_hash.hex()}")
        self._say(
            f"possible      {self._registry.rescue_notice_s()} s from now, unless a batch or a hand-over comes in"
        )


def open_staking(config: Path, overrides: dict[str, str], say: Callable[[str], None]) -> Staking:
    """The account and the registry that ``config`` names.

    Raises :class:`~node.errors.NodeError`, and :class:`~contracts.errors.ContractsError` where the chain is away.
    """
    node: NodeFile = load_node(config, overrides)
    if not node.chain.rpc_url:
        raise ConfigInvalid(config, "chain.rpc_url", "is empty: staking needs a chain")
    network = load_network(node.network)
    password = keys.find_password(node.keys.mor, node.keys.password_file)
    key = keys.load_mor_key(node.keys.mor, password)
    with kept_recursion_limit():
        from contracts.bindings import Mor, Registry  # noqa: PLC0415  # web3 is heavy: only where there is a chain
        from contracts.client import ChainClient  # noqa: PLC0415  # as above
    client = ChainClient(node.chain.rpc_url, node.chain.timeout_s)
    if (found := client.chain_id()) != network.chain_id:
        raise ChainMismatch(node.chain.rpc_url, found, network.chain_id)
    return Staking(key, Mor(client, network.contracts.mor), Registry(client, network.contracts.registry), say)


def parse_mor(text: str) -> int:
    """``text``, a decimal number of MOR, in wei. Raises :class:`~node.errors.AmountInvalid`."""
    try:
        wei = Decimal(text).scaleb(DECIMALS, Context(prec=100))
    except InvalidOperation:
        raise AmountInvalid(text, "is not a number of MOR") from None
    if not wei.is_finite() or wei != wei.to_integral_value() or wei <= 0 or wei >= 2**256:
        raise AmountInvalid(text, f"is not an amount of MOR: above 0, with at most {DECIMALS} decimals")
    return int(wei)


def show(wei: int) -> str:
    """``wei`` as a decimal number of MOR, exactly."""
    whole, rest = divmod(wei, WEI)
    return str(whole) if rest == 0 else f"{whole}.{rest:018d}".rstrip("0")
