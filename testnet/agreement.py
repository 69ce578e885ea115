"""What the ledger says of a batch beside what the Compute Contract's views say once it has accepted it.

The same integers on both sides: a view that computes is given the ledger's inputs, a view that remembers is read as
it is. Views are read at the block that accepted the batch, so that nothing moves between two of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from consensus.market import access
from consensus.market.day_account import DayAccount
from consensus.market.ledger_state import Ledger
from consensus.params import Terms
from contracts.amounts import show_exact
from contracts.client import ChainClient
from contracts.typed_data import Address, Digest
from testnet.errors import TestnetError


class Disagreement(TestnetError):
    """``name`` is the view, ``ledger`` and ``contract`` what each side says of it at batch ``height``."""

    def __init__(self, height: int, name: str, ledger: object, contract: object) -> None:
        self.name = name
        super().__init__(f"batch {height}: {name} is {contract} by the contract, {ledger} by the ledger")


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """The contract's views at ``block`` after it accepted a batch of ``day``. Amounts are wei."""

    block: int
    time_s: int
    """The block's own time, Unix seconds."""
    today: int
    latest_height: int
    credit_root: Digest
    credited: int
    bootstrap: int
    paid: int
    received: int
    pool: int
    reserve: int
    supply: int
    """MOR in existence at the day's snapshot block."""
    emission: int
    budget: int
    budget_left: int
    max_t: int
    access_rate: int
    user_max: int
    """Of ``user`` as it was asked for, in T."""


@dataclass(frozen=True, slots=True)
class Contract:
    """The Compute Contract and its token, to be read by views alone."""

    client: ChainClient
    compute: Address
    mor: Address

    def views(self, height: int, account: DayAccount, user_wei: int, block: int) -> Views:
        """All views at ``block``; those that compute get the numbers of ``account``, the day of batch ``height``."""

        def ask(name: str, *arguments: object) -> int:
            return int(self.client.call("compute", self.compute, name, *arguments, block=block))

        supply = int(self.client.call("mor", self.mor, "totalSupply", block=account.snapshot_block))
        max_t = ask("max_t", int(account.market_wei), account.reference_price_wei)
        return Views(
            block=block,
            time_s=self.client.block_timestamp(block),
            today=ask("today"),
            latest_height=ask("latest_height"),
            credit_root=Digest(self.client.call("compute", self.compute, "credit_root", height, block=block)),
            credited=ask("credited_total"),
            bootstrap=ask("bootstrap_credited"),
            paid=ask("paid_total"),
            received=ask("received"),
            pool=ask("pool"),
            reserve=ask("reserve"),
            supply=supply,
            emission=ask("emission_of", account.day),
            budget=ask("budget", account.day, int(account.paid_before_wei)),
            budget_left=ask("budget_left", account.day),
            max_t=max_t,
            access_rate=ask("access_rate", max_t, supply),
            user_max=ask("user_max", max_t, supply, user_wei),
        )


def check(ledger: Ledger, credit_root: Digest, terms: Terms, views: Views, user_wei: int) -> int:
    """How many of the contract's views were compared with the ledger after a batch, and found right.

    Raises :class:`Disagreement` for the first that isn't.
    """
    count = 0
    for name, expected, found, holds in _pairs(ledger, credit_root, terms, views, user_wei):
        if not holds:
            raise Disagreement(ledger.height, name, expected, found)
        count += 1
    return count


def _pairs(
    ledger: Ledger, credit_root: Digest, terms: Terms, views: Views, user_wei: int
) -> Iterator[tuple[str, str, str, bool]]:
    """Name, the ledger's figure, the contract's, and whether they agree."""
    account, economics = ledger.account, terms.economics
    bootstrap = int(ledger.bootstrap_credited)
    market = int(ledger.total_credited) - bootstrap
    today = max(0, views.time_s - economics.genesis_s) // economics.day_s
    amounts = (
        ("credited_total()", int(ledger.total_credited), views.credited),
        ("bootstrap_credited()", bootstrap, views.bootstrap),
        (f"budget({account.day}, {account.paid_before_wei})", int(account.budget_wei), views.budget),
        (f"emission_of({account.day})", economics.emission(account.day), views.emission),
        ("pool()", economics.unused(today, market), views.pool),
        ("reserve()", economics.bootstrap_ceiling(today) - bootstrap, views.reserve),
        (f"MOR.totalSupply() at block {account.snapshot_block}", int(account.supply_wei), views.supply),
    )
    for name, expected, found in amounts:
        yield name, show_exact(expected), show_exact(found), expected == found
    max_t = account.max_t
    counts = (
        ("today()", today, views.today, ""),
        ("latest_height()", ledger.height, views.latest_height, ""),
        ("max_t(budget, price)", max_t, views.max_t, " T"),
        ("access_rate(max_t, supply)", access.access_rate(max_t, account.supply_wei), views.access_rate, " T per MOR"),
        (
            f"user_max(max_t, supply, {user_wei})",
            access.user_max(max_t, account.supply_wei, user_wei),
            views.user_max,
            " T",
        ),
    )
    for name, expected, found, unit in counts:
        yield name, f"{expected:,}{unit}", f"{found:,}{unit}", expected == found
    root = f"credit_root({ledger.height})"
    yield root, f"0x{credit_root.hex()}", f"0x{views.credit_root.hex()}", credit_root == views.credit_root
    # Bounds: the contract knows totals and days, not tickets, and payments come when providers want them.
    left = int(account.budget_left_wei)
    yield (
        f"budget_left({account.day})",
        f"at least {show_exact(left)}",
        show_exact(views.budget_left),
        views.budget_left >= left,
    )
    yield "paid_total()", f"at most {show_exact(views.credited)}", show_exact(views.paid), views.paid <= views.credited
    funded = views.received >= views.credited
    yield "received() (S35)", f"at least {show_exact(views.credited)}", show_exact(views.received), funded
