"""The parts of ``yellowstone testnet days`` on a real chain: views beside the ledger, an old root, a lying committee.

The batches are the rules' own, signed by a committee that has staked; what is missing are the nodes that would agree.
"""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from consensus.market.batch import apply_batch
from consensus.market.ledger_state import Ledger, genesis_ledger
from consensus.params import Terms, economics_of
from contracts.anvil import CHAIN_ID, AnvilChain, anvil
from contracts.bindings import Compute, Mor
from contracts.client import ChainClient
from contracts.errors import TransactionReverted
from contracts.merkle import CreditTree
from contracts.signing import Key
from contracts.typed_data import Digest, Domain, Uint256
from gossip.messages.committee import BatchHeader, DayOpening
from gossip.messages.session import Settlement
from node.config import KeyFiles
from testnet.agreement import Contract, Disagreement, Views, check
from testnet.forgery import ForgeryTaken, certify, credit_liar, refusal
from testnet.funding import Deployment, deploy_and_fund
from testnet.keys import Identity
from testnet.plan import MOR, SUPPLY_WEI, Plan, TestnetOptions, compute_plan
from testnet.reckoning import Day, DaysFailed, claim_late, forge
from tests.consensus.builders import MODEL, World, address, key

CACHE_DIR = Path(__file__).parents[2] / ".cache" / "anvil"
PRICE_WEI = 10**16
USER_WEI = 500 * MOR
DAYS_AGO_S = 400
"""How long before the contracts come slot 0 begins, so that days 0 to 5 have been reached."""


class Network:
    """A deployed network and the ledger of a committee whose keys are here."""

    def __init__(self, chain: AnvilChain) -> None:
        self.client = ChainClient(chain.url)
        self.purse = chain.funded_keys[1]
        plan: Plan = compute_plan(TestnetOptions(day_s=60, pool_wei=1_000 * MOR, reference_price_wei=PRICE_WEI))
        identities = [self._identity(f"member {number}", plan, number) for number in range(4)]
        long_ago_s = int(time.time()) - DAYS_AGO_S
        self.deployment: Deployment = deploy_and_fund(
            self.client, chain.funded_keys[0], identities, plan.params, lambda _: None, genesis_s=long_ago_s
        )
        genesis_ms, compute = self.deployment.genesis_ms, self.deployment.compute
        self.world = World(Terms(Domain(CHAIN_ID, compute), genesis_ms, plan.params), committed_days=0)
        self.terms = self.world.terms
        budget = economics_of(plan.params, genesis_ms // 1_000).budget(0, 0)
        opening = DayOpening(0, self.deployment.snapshot_block, Uint256(SUPPLY_WEI), Uint256(budget))
        self.ledger: Ledger = genesis_ledger(
            self.terms, self.deployment.committee, opening, PRICE_WEI, (), models=(MODEL,)
        )
        self.compute = Compute(self.client, compute)
        self.mor = Mor(self.client, self.deployment.mor)
        self.contract = Contract(self.client, compute, self.deployment.mor)
        self.keys: list[Key] = [identity.key for identity in identities]
        self.header: BatchHeader | None = None

    def _identity(self, name: str, plan: Plan, number: int) -> Identity:
        nowhere = Path("unused")
        return Identity(plan.of_kind("member")[number], nowhere, key(name), KeyFiles(nowhere, nowhere))

    def batch(self, slot: int, *pending: Settlement) -> Views:
        """Decide a batch, have the contract accept it; its views then."""
        header, body, rejected = self.world.propose(self.ledger, pending, slot=slot, proposer=key("member 1"))
        assert not rejected
        self.ledger = apply_batch(self.ledger, self.terms, header, body)
        signed = certify(header, self.ledger.committee, self.keys, self.terms.domain)
        receipt = self.compute.submit(self.purse, header, signed.round, signed.signatures)
        self.header = header
        return self.contract.views(header.height, self.ledger.account, USER_WEI, receipt.block_number)

    def session(self, provider: str, slot: int) -> Settlement:
        return self.world.settlement(
            session=f"{provider} {slot}", provider=provider, slot=slot, price_wei=PRICE_WEI, allowance=300
        )

    def check(self, views: Views, ledger: Ledger | None = None, root: Digest | None = None) -> int:
        assert self.header is not None
        shown = self.header.credit_root if root is None else root
        return check(ledger or self.ledger, shown, self.terms, views, USER_WEI)


async def test_s32_s35_days_on_a_real_contract(tmp_path: Path) -> None:
    async with anvil(CACHE_DIR, tmp_path / "anvil.log") as chain:
        with trio.fail_after(60):
            await trio.to_thread.run_sync(run_days, chain)


def run_days(chain: AnvilChain) -> None:
    network = Network(chain)
    views = network.batch(3, network.session("prompt claimer", 2))
    assert network.check(views) == 16
    views = network.batch(20, network.session("late claimer", 16), network.session("prompt claimer", 17))
    assert network.check(views) == 16
    first = Day(network.ledger.account, views, 0, 0, last_height=2, credits=CreditTree.of(network.ledger.credits))
    # Day 2 has no batch: the ledger and the contract give it a budget of its own all the same.
    views = network.batch(50, network.session("late claimer", 47))
    assert network.check(views) == 16
    assert network.ledger.days[2].budget_wei not in {network.ledger.days[day].budget_wei for day in (1, 3)}
    each_field_counts(network, views)
    lies_are_refused(network)
    old_credit_is_claimed(network, first)


def each_field_counts(network: Network, views: Views) -> None:
    """Whatever the contract said differently would be noticed, and so would another ledger."""
    ignored = {"block", "time_s"}
    lower = {"budget_left": int(network.ledger.account.budget_left_wei) - 1, "received": views.credited - 1}
    for changed in _changed(views, ignored, lower | {"paid": views.credited + 1}):
        with pytest.raises(Disagreement, match="by the contract"):
            network.check(changed)
    with pytest.raises(Disagreement, match="credit_root"):
        network.check(views, root=Digest(bytes(32)))


def _changed(views: Views, ignored: set[str], chosen: dict[str, int]) -> Iterator[Views]:
    for field in dataclasses.fields(views):
        if field.name in ignored:
            continue
        value = getattr(views, field.name)
        other = Digest(b"\x01" * 32) if isinstance(value, bytes) else chosen.get(field.name, value + 1)
        yield dataclasses.replace(views, **{field.name: other})  # type: ignore[arg-type]  # of the field's own type


def lies_are_refused(network: Network) -> None:
    assert network.header is not None
    liars = network.ledger.committee, network.keys
    lines = forge(network.compute, network.purse, network.header, liars, network.terms.domain)
    assert "compute: over budget" in lines[0]
    honest = credit_liar(network.header, 1, network.purse.address)
    three = certify(honest, network.ledger.committee, network.keys[:3], network.terms.domain)
    assert network.compute.budget_left(network.header.day) > 1
    with pytest.raises(ForgeryTaken, match="was taken"):
        refusal(network.compute, network.purse, honest, three)
    old = network.header
    again = certify(old, network.ledger.committee, network.keys, network.terms.domain)
    assert refusal(network.compute, network.purse, old, again) == "compute: old height"


def old_credit_is_claimed(network: Network, first: Day) -> None:
    compute, mor, purse = network.compute, network.mor, network.purse
    between = first, network.ledger
    provider = address("late claimer")
    lines = claim_late(compute, mor, purse, provider, between)
    assert "under the root of batch 2, the last of day 1, it is paid 1.0000 MOR" in lines[0].replace("0x", "")
    assert mor.balance_of(provider) == int(network.ledger.credits[provider])
    with pytest.raises(TransactionReverted, match="compute: nothing to claim"):
        claim_late(compute, mor, purse, provider, between)
    with pytest.raises(DaysFailed, match="credited nothing until the end of day 1"):
        claim_late(compute, mor, purse, address("nobody"), between)
