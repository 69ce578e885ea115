"""What a run of days prints, and what its network consists of; the run itself is a command."""

import io

import msgspec
from rich.console import Console
from typer.testing import CliRunner

from consensus.market.day_account import DayAccount
from contracts.typed_data import Digest, Uint256
from testnet.agreement import Views
from testnet.cli import app
from testnet.days import Account
from testnet.days_table import render
from testnet.plan import MOR, TestnetOptions, compute_plan
from testnet.reckoning import Day

ACCOUNT = DayAccount(
    day=1,
    snapshot_block=9,
    supply_wei=Uint256(10_000_000 * MOR),
    budget_wei=Uint256(3_000 * MOR),
    reference_price_wei=10**11,
    issued_t=Uint256(0),
    credited_t=Uint256(50),
    credited_wei=Uint256(5 * 10**12),
    epoch=1,
    opened_height=3,
    before_price_wei=10**11,
    before_t=Uint256(0),
    before_wei=Uint256(0),
    paid_before_wei=Uint256(0),
)
VIEWS = Views(
    block=20,
    time_s=1,
    today=1,
    latest_height=4,
    credit_root=Digest(bytes(32)),
    credited=700 * MOR,
    bootstrap=600 * MOR,
    paid=50 * MOR,
    received=10_000 * MOR,
    pool=9_900 * MOR,
    reserve=0,
    supply=10_000_000 * MOR,
    emission=3_456 * MOR,
    budget=3_000 * MOR,
    budget_left=3_000 * MOR,
    max_t=30_000_000_000,
    access_rate=3_000,
    user_max=0,
)


def test_each_day_is_told_by_both_sides_with_units() -> None:
    over = Day(ACCOUNT, VIEWS, 10_000 * MOR, 9_999 * MOR, pool_after=9_950 * MOR, credited=700 * MOR, batches=3)
    last = Day(msgspec.structs.replace(ACCOUNT, day=2), VIEWS, 9_950 * MOR, 9_950 * MOR)
    account = Account({1: over, 2: last}, compared=48, batches=3, claimed=("paid late",), refusal=("refused",))
    output = io.StringIO()
    Console(file=output, width=220).print(render(account))
    text = output.getvalue()
    for told in ("3,000.0000", "100,000,000,000", "30,000,000,000", "-0.50 %", "not over", "9,999.0000", "50.0000"):
        assert told in text
    assert "T per 1 MOR" in text
    assert "wei per T" in text
    rows = [line.split("│")[2].strip() for line in text.splitlines() if line.startswith("│")]
    assert rows == ["ledger", "contract"] * 2
    assert "3 batches were submitted and 48 views compared: all agree" in text
    assert "- paid late" in text


def test_the_last_providers_may_have_no_chain() -> None:
    plan = compute_plan(TestnetOptions(providers=3, chainless=1, bid_wei=10**13, pool_wei=7 * MOR, user_wei=MOR))
    assert [node.has_chain for node in plan.of_kind("provider")] == [True, True, False]
    assert [node.price_wei for node in plan.of_kind("provider")][:2] == [10**13, 103 * 10**11]
    assert plan.params.endowment_mor == 7
    assert plan.of_kind("user")[0].balance_wei == MOR
    assert compute_plan(TestnetOptions(settle_window_slots=15)).params.settle_window_slots == 15


def test_a_day_that_is_no_multiple_of_blocks_is_refused_in_a_line() -> None:
    ended = CliRunner().invoke(app, ["days", "--day", "61", "--block", "4"])
    assert ended.exit_code == 1
    assert "testnet days failed: --day 61: must be a multiple of --block 4" in ended.output
    assert "Traceback" not in ended.output
