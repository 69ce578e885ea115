"""The summary says what happened, and its verdict is about wei, not about text."""

import io

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from testnet.ask import Answer
from testnet.control import BatchView, CandidateView, ClaimView, MatchView, SessionView, TicketView
from testnet.plan import MOR
from testnet.summary import Outcome, format_mor, render

FIRST, SECOND, THIRD = ("0x" + f"{i:02x}" * 20 for i in (0xA1, 0xB2, 0xC3))
MEMBERS = tuple("0x" + f"{i:02x}" * 20 for i in range(1, 5))
PRICE = 90_000_000_000


def outcome(received_wei: int, tokens: int = 8, text: str = "The capital of France is Paris.") -> Outcome:
    match = MatchView(
        slot=3,
        attempt=0,
        beacon="0xbeac",
        draw="0xd0a3",
        candidates=(CandidateView(FIRST, PRICE, "0x01"), CandidateView(SECOND, PRICE * 103 // 100, "0x02")),
        winner="0x01",
    )
    return Outcome(
        prompt="What is the capital of France?",
        answer=Answer(text=text, rfc_id="0x0a", headers={}, finish="stop", first_ms=40, total_ms=120),
        session=SessionView(
            rfc_id="0x0a",
            ticket_id="0x0b",
            provider=FIRST,
            price_wei=PRICE,
            tokens=tokens,
            first_ms=21,
            last_ms=99,
            finish="stop",
            match=match,
            match_ms=7,
        ),
        ticket=TicketView(height=1, credited_wei=tokens * PRICE),
        batch=BatchView(
            height=1,
            slot=4,
            day=0,
            batch_hash="0x0e",
            round=0,
            signers=MEMBERS[:3],
            members=MEMBERS,
            settlements=1,
            total_credited=tokens * PRICE,
        ),
        claim=ClaimView(height=1, cumulative_wei=tokens * PRICE, tx_hash="0x0f", gas=147_123),
        before_wei=10 * MOR,
        after_wei=10 * MOR + received_wei,
        names={FIRST: "provider-1", SECOND: "provider-2", THIRD: "provider-3"}
        | {address: f"member-{i}" for i, address in enumerate(MEMBERS, 1)},
        bids={FIRST: PRICE, SECOND: PRICE * 103 // 100, THIRD: PRICE * 106 // 100},
    )


def shown(seen: Outcome) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(render(seen))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_it_shows_the_whole_way_from_prompt_to_pay() -> None:
    text = shown(outcome(8 * PRICE))
    for part in (
        "The capital of France is Paris.",
        "8 T (stop)",
        "21 ms",
        "0xbeac",
        "0xd0a3",
        "2 bids are within the tie band",
        "signed by 3 of 4: member-1, member-2, member-3",
        "0x0f, 147,123 gas",
        "8 T × 90,000,000,000 wei = 0.00000072 MOR",
        "10.00000072 MOR",
        "✓ provider-1 received exactly",
    ):
        assert part in text, f"{part!r} is not in\n{text}"
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("provider-")}
    assert "won the draw" in rows["provider-1"]
    assert "in the draw" in rows["provider-2"]
    assert "not in the draw" in rows["provider-3"]
    assert ("0.0 %" in rows["provider-1"], "3.0 %" in rows["provider-2"], "6.0 %" in rows["provider-3"]) == (True,) * 3


@pytest.mark.parametrize("received", [0, 8 * PRICE - 1, 8 * PRICE + 1, -1])
def test_one_wei_off_is_wrong(received: int) -> None:
    seen = outcome(received)
    assert not seen.is_exact
    assert "✗ provider-1 received" in shown(seen)


def test_nothing_delivered_is_never_right() -> None:
    assert not outcome(0, tokens=0).is_exact


def test_an_answer_with_markup_is_shown_as_it_is() -> None:
    assert "[bold]x[/red] [/]" in shown(outcome(8 * PRICE, text="[bold]x[/red] [/]"))


def test_what_nodes_leave_out_is_no_error() -> None:
    seen = outcome(8 * PRICE)
    session = msgspec.structs.replace(seen.session, match=None, match_ms=None, stream_open_ms=None)
    bare = Outcome(**{name: getattr(seen, name) for name in Outcome.__slots__} | {"session": session, "claim": None})
    assert "not reported" in shown(bare)


@settings(max_examples=100)
@given(st.integers(-(10**30), 10**30))
def test_amounts_lose_no_digit(wei: int) -> None:
    text = format_mor(wei).removesuffix(" MOR").replace(",", "")
    whole, _, decimals = text.lstrip("-").partition(".")
    assert int(whole) * MOR + int(decimals.ljust(18, "0")) == abs(wei)
    assert text.startswith("-") == (wei < 0)
    assert not decimals.endswith("0")
