"""Several days of traffic on a real network, its ledger held against the contract's views at every batch.

The run follows the certified batches with a ledger of its own, from the genesis file on, submits each to the contract
and compares (:mod:`testnet.agreement`). What is tried in the end is :mod:`testnet.reckoning`'s.
"""

import random
from dataclasses import dataclass, field

import msgspec
import trio

from consensus.market.batch import apply_batch
from consensus.market.ledger_state import Ledger
from consensus.market.settlement import VerifiedSettlements
from consensus.tendermint.certificate import verify_certificate
from contracts.amounts import show_exact, show_mor
from contracts.bindings import Compute, Mor
from contracts.errors import TransactionReverted
from contracts.merkle import CreditTree
from gossip.messages.base import decode
from gossip.messages.committee import CertifiedBatch
from node.config import load_network
from testnet.agreement import Contract, Views, check
from testnet.ask import ask
from testnet.control import poll
from testnet.errors import AnswerRefused
from testnet.evidence import gateway, wait_for_bids
from testnet.files import MODEL_NAME, open_folder
from testnet.network import Network, running
from testnet.plan import MOR, Plan, TestnetOptions, compute_plan
from testnet.progress import Progress
from testnet.reckoning import Day, DaysFailed, claim_late, forge

PRICE_WEI = 2 * 10**13
"""The genesis reference price: T so dear that a small machine's traffic is seen in MOR, and AccessRate not 0."""

POOL_WEI = 10_000 * MOR
"""So small a pool that S23, not the emission, bounds the budget: what is credited moves the next day's."""

BID_PERCENT = 70
"""What the first provider asks of it, so that the reference price falls by its 10 % a day for some days."""

USER_WEI = 4_000_000 * MOR
"""The user's balance: two fifths of the supply, and so of MaxT."""

ASKERS = 4
ANSWER_T = 192
TOKEN_MS = 1
PAUSE_S = 0.3
"""Between an asker's queries."""

BATCH_S = 120.0
"""How long the next batch may take."""

POLL_S = 0.1


class _Encoded(msgspec.Struct, frozen=True):
    encoded: str


@dataclass(slots=True)
class Account:
    """What the whole run came to."""

    days: dict[int, Day] = field(default_factory=dict)
    compared: int = 0
    """Views that were compared with the ledger, all batches together."""
    batches: int = 0
    passed_over: int = 0
    """Batches that the contract never saw, since a provider's claim on a later one came first."""
    answers: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    claimed: tuple[str, ...] = ()
    """What came of the late claim, in words; ``refusal`` what came of the forgery."""
    refusal: tuple[str, ...] = ()


async def run_days(options: TestnetOptions, days: int, seed: int, progress: Progress) -> Account:
    """The whole run; raises :class:`DaysFailed`, :class:`~testnet.agreement.Disagreement` and the like."""
    chosen = msgspec.structs.replace(
        options,
        engine="synthetic",
        token_ms=TOKEN_MS,
        slots=ASKERS,
        user_wei=USER_WEI,
        reference_price_wei=PRICE_WEI,
        bid_wei=PRICE_WEI * BID_PERCENT // 100,
        pool_wei=POOL_WEI,
        settle_window_slots=options.day_s // options.block_s if options.day_s else None,
        chainless=1,
    )
    plan = compute_plan(chosen)
    with open_folder(options.directory) as folder:
        async with running(plan, folder, progress, trio.Event()) as network:
            await wait_for_bids(network, progress)
            run = Days(network, plan, random.Random(seed), progress)  # noqa: S311  # seeded questions and pauses
            await run.run(days)
            return run.account


class Days:
    """One network, the ledger that this run keeps beside it, and the contract."""

    def __init__(self, network: Network, plan: Plan, rng: random.Random, progress: Progress) -> None:
        file = load_network(network.genesis.network_path)
        deployment = network.genesis.deployment
        self.account = Account()
        self._network = network
        self._plan = plan
        self._rng = rng
        self._progress = progress
        self._terms = file.terms()
        self._verified = VerifiedSettlements(self._terms)
        self.ledger: Ledger = file.genesis()
        self._accepted = self.ledger
        """The ledger of the last batch that the contract was seen to accept."""
        self._last: CertifiedBatch | None = None
        self._contract = Contract(network.client, deployment.compute, deployment.mor)
        self._compute = Compute(network.client, deployment.compute)
        self._mor = Mor(network.client, deployment.mor)

    async def run(self, days: int) -> None:
        """Traffic through the end of day ``days``, day 0 being what is left of the first.

        The claim of day 1's credit comes as soon as day ``days`` has opened, the forgery in the end.
        """
        async with trio.open_nursery() as nursery:
            for number in range(ASKERS):
                nursery.start_soon(self._ask_for_ever, number)
            while self.ledger.day <= days:
                await self._follow(await self._next_batch())
                if self.ledger.day == days and not self.account.claimed:
                    await self._claim_late()
            nursery.cancel_scope.cancel()
        await self._lie()

    async def _claim_late(self) -> None:
        """Have the provider that can't claim paid for day 1, under the root that day ended with."""
        if (first := self.account.days.get(1)) is None:
            raise DaysFailed("no batch of day 1 was accepted")
        late = self._network.of_kind("provider")[-1].identity
        with self._progress.step(
            f"On day {self.ledger.day} what was credited on day 1 is claimed under its root"
        ) as step:
            between = first, self._accepted
            self.account.claimed = await trio.to_thread.run_sync(
                claim_late, self._compute, self._mor, self._network.purse, late.key.address, between
            )
            step.detail = late.name

    async def _lie(self) -> None:
        """See a lying committee refused."""
        if self._last is None:
            raise DaysFailed("no batch was certified")
        with self._progress.step("A committee that lies about the budget is refused") as step:
            keys = [identity.key for identity in self._network.genesis.of_kind("member")]
            liars = self.ledger.committee, keys
            self.account.refusal = await trio.to_thread.run_sync(
                forge, self._compute, self._network.purse, self._last.header, liars, self._terms.domain
            )
            step.detail = f"{len(keys)} of {len(keys)} members signed"

    async def _ask_for_ever(self, number: int) -> None:
        while True:
            question = f"query {self._rng.getrandbits(64)} of {number}"
            try:
                await ask(gateway(self._network), MODEL_NAME, question, max_tokens=ANSWER_T, on_text=lambda _: None)
                self.account.answers += 1
            except AnswerRefused as error:
                key = str(error.status)
                self.account.refused[key] = self.account.refused.get(key, 0) + 1
            await trio.sleep(self._rng.uniform(0, 2 * PAUSE_S))

    async def _next_batch(self) -> CertifiedBatch:
        height = self.ledger.height + 1
        path = f"/batches/{height}/certified"

        async def look() -> _Encoded | None:
            return await self._network.full.control.get(path, _Encoded)

        found = await poll(f"batch {height}", look, BATCH_S)
        return decode(CertifiedBatch, bytes.fromhex(found.encoded.removeprefix("0x")))

    async def _follow(self, batch: CertifiedBatch) -> None:
        """Check the batch, apply it, bring it to the contract and compare; then the day's S23."""
        before, header = self.ledger, batch.header
        verify_certificate(batch.certificate, header, before.committee, self._terms.domain)
        self.ledger = apply_batch(before, self._terms, header, batch.body, verified=self._verified)
        self._last = batch
        views = await trio.to_thread.run_sync(self._submit, batch)
        if header.day > before.day:
            self._close_day(before)
        if views is None:
            self.account.passed_over += 1
            return
        self.account.batches += 1
        self.account.compared += check(self.ledger, header.credit_root, self._terms, views, USER_WEI)
        self._accepted = self.ledger
        self._note(batch, before, views)

    def _submit(self, batch: CertifiedBatch) -> Views | None:
        """The contract's views once it has accepted the batch; None where it has a later one already. Blocking."""
        header, client = batch.header, self._network.client
        try:
            receipt = self._compute.submit(
                self._network.purse, header, batch.certificate.round, batch.certificate.signatures
            )
            block = receipt.block_number
        except TransactionReverted as error:
            block = client.block_number()
            latest = self._compute.latest_height(block)
            if latest < header.height:
                raise DaysFailed(f"the contract refuses batch {header.height}: {error.reason}") from error
            if latest > header.height:
                return None
        return self._contract.views(header.height, self.ledger.account, USER_WEI, block)

    def _note(self, batch: CertifiedBatch, before: Ledger, views: Views) -> None:
        """Keep what the day's row shows."""
        header, days = batch.header, self.account.days
        if (day := days.get(header.day)) is None:
            pool = self._pool(header.day, before)
            day = days[header.day] = Day(self.ledger.account, views, pool, views.pool + self._credited_since(before))
        day.account, day.views = self.ledger.account, views
        day.credited, day.bootstrap = int(header.total_credited), int(header.bootstrap_credited)
        day.batches += 1
        day.last_height, day.credits = header.height, CreditTree.of(self.ledger.credits)
        earlier = days.get(header.day - 1)
        if earlier is not None and header.day - 1 in self.ledger.days:
            earlier.account = self.ledger.days[header.day - 1]  # late sessions are credited to their own day

    def _pool(self, number: int, ledger: Ledger) -> int:
        """Wei in the unused pool when day ``number`` begins after ``ledger``."""
        return self._terms.economics.unused(number, int(ledger.total_credited) - int(ledger.bootstrap_credited))

    def _credited_since(self, before: Ledger) -> int:
        """Wei that the newest batch has credited to bids: the contract's view of the pool is after it."""
        after = self.ledger
        bootstrap = int(after.bootstrap_credited) - int(before.bootstrap_credited)
        return int(after.total_credited) - int(before.total_credited) - bootstrap

    def _close_day(self, before: Ledger) -> None:
        """S23 once a day is over: the unused pool has fallen by at most 1 % of what it was when the day began.

        Raises :class:`DaysFailed`.
        """
        if (day := self.account.days.get(before.day)) is None:
            return
        day.pool_after = self._pool(before.day + 1, before)
        if day.pool_after < day.pool_before - day.pool_before // 100 - 1:
            told = f"{show_exact(day.pool_before)} to {show_exact(day.pool_after)}"
            raise DaysFailed(f"the unused pool fell by more than 1 % on day {before.day}: {told} (S23)")
        self._progress.note(
            f"day {before.day} is over: {day.batches} batches, {day.account.credited_t:,} T credited for"
            f" {show_mor(int(day.account.credited_wei))}, budget {show_mor(int(day.account.budget_wei))}"
        )
