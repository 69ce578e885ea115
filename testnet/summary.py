"""What a finished run shows: the answer, who won and why, the batch that settled it, and the MOR that arrived.

:class:`Outcome` is what the launcher saw, gathered from the endpoints of the nodes and from the chain itself;
:func:`render` turns it into tables. Whether the run was right is the Outcome's to say, not the tables'.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from testnet.ask import Answer
from testnet.control import BatchView, ClaimView, MatchView, SessionView, TicketView
from testnet.plan import MOR


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One prompt, from question to pay."""

    prompt: str
    answer: Answer
    session: SessionView
    ticket: TicketView
    batch: BatchView
    claim: ClaimView | None
    before_wei: int
    """The winner's MOR before the prompt, read from the chain."""
    after_wei: int
    """The winner's MOR afterwards, read from the chain."""
    names: Mapping[str, str]
    """The nodes' names by address."""
    bids: Mapping[str, int]
    """All providers' prices, wei per T, by address."""

    @property
    def expected_wei(self) -> int:
        """T delivered times the bid, to the wei (S33)."""
        return (self.session.tokens or 0) * self.session.price_wei

    @property
    def received_wei(self) -> int:
        """What the winner's balance rose by."""
        return self.after_wei - self.before_wei

    @property
    def is_exact(self) -> bool:
        """Whether something was delivered and exactly its price arrived."""
        return self.expected_wei > 0 and self.received_wei == self.expected_wei

    def name(self, address: str) -> str:
        """A node's name, or the address where it is nobody of this network."""
        return self.names.get(address.lower(), address)


def format_mor(wei: int) -> str:
    """An amount in MOR, exact: no digit is dropped."""
    sign = "-" if wei < 0 else ""
    whole, rest = divmod(abs(wei), MOR)
    decimals = f".{rest:018d}".rstrip("0").rstrip(".")
    return f"{sign}{whole:,}{decimals} MOR"


def render(outcome: Outcome) -> RenderableType:
    """The summary, for a console."""
    return Group(
        Text(),
        _query_table(outcome),
        Text(),
        _bids_table(outcome),
        *_draw_lines(outcome.session.match),
        Text(),
        _pay_table(outcome),
        Text(),
        _verdict(outcome),
    )


def _facts(title: str, rows: Mapping[str, str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def _query_table(outcome: Outcome) -> Table:
    session, answer = outcome.session, outcome.answer
    prompt_tokens = f", {session.prompt_tokens} T of prompt" if session.prompt_tokens else ""
    return _facts(
        "The query",
        {
            "prompt": outcome.prompt,
            "answer": answer.text.strip(),
            "delivered": f"{session.tokens} T ({session.finish or answer.finish}){prompt_tokens}",
            "first token": f"{session.first_ms} ms after the query, {answer.first_ms} ms after the client asked",
            "last token": f"{session.last_ms} ms after the query, {answer.total_ms} ms after the client asked",
            "match": f"{_ms(session.match_ms)} from request to match, {_ms(session.stream_open_ms)} to the open stream",
            "RFC": session.rfc_id,
            "ticket": session.ticket_id,
        },
    )


def _ms(value: float | None) -> str:
    return "? ms" if value is None else f"{value:.0f} ms"


def _bids_table(outcome: Outcome) -> Table:
    table = Table(title="Who won, and why", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("provider")
    table.add_column("bid (wei per T)", justify="right")
    table.add_column("above the lowest", justify="right")
    table.add_column("")
    drawn = (
        {candidate.provider.lower() for candidate in outcome.session.match.candidates}
        if outcome.session.match
        else set()
    )
    lowest = min(outcome.bids.values(), default=0)
    for address, price in sorted(outcome.bids.items(), key=lambda item: item[1]):
        is_winner = address.lower() == outcome.session.provider.lower()
        note = "won the draw" if is_winner else "in the draw" if address.lower() in drawn else "not in the draw"
        table.add_row(
            escape(f"{outcome.name(address)} {short(address)}"),
            f"{price:,}",
            f"{_percent(price - lowest, lowest)} %",
            note,
            style="green" if is_winner else None,
        )
    return table


def short(value: str) -> str:
    """The ends of a long hex string, for a table."""
    return value if len(value) <= 14 else f"{value[:8]}…{value[-4:]}"


def _percent(part: int, whole: int) -> str:
    """One decimal, rounded down, in integers."""
    thousandths = part * 1_000 // whole if whole else 0
    return f"{thousandths // 10}.{thousandths % 10}"


def _draw_lines(match: MatchView | None) -> list[Text]:
    if match is None:
        return []
    count = len(match.candidates)
    bids = "1 bid is" if count == 1 else f"{count} bids are"
    lines = [f"{bids} within the tie band; slot {match.slot}, attempt {match.attempt}"]
    lines += [f"beacon  {match.beacon}", f"draw    {match.draw}", f"winner  {match.winner}"]
    lines += [f"unlive  {bid_id}" for bid_id in match.unlive]
    return [Text(line, style="dim") for line in lines]


def _pay_table(outcome: Outcome) -> Table:
    session, batch, claim = outcome.session, outcome.batch, outcome.claim
    signers = ", ".join(outcome.name(address) for address in batch.signers)
    transaction = (
        "not reported" if claim is None or claim.tx_hash is None else f"{claim.tx_hash}, {claim.gas or 0:,} gas"
    )
    return _facts(
        "What was paid",
        {
            "batch": f"height {batch.height}, slot {batch.slot}, day {batch.day}; tickets settled: {batch.settlements}",
            "batch hash": batch.batch_hash,
            "certificate": f"round {batch.round}, signed by {len(batch.signers)} of {len(batch.members)}: {signers}",
            "credited": f"{format_mor(outcome.ticket.credited_wei)} ({outcome.ticket.reason or 'paid as bid'})",
            "claim": transaction,
            "MOR before": format_mor(outcome.before_wei),
            "MOR after": format_mor(outcome.after_wei),
            "expected": f"{session.tokens} T × {session.price_wei:,} wei = {format_mor(outcome.expected_wei)}",
            "received": format_mor(outcome.received_wei),
        },
    )


def _verdict(outcome: Outcome) -> Text:
    who = outcome.name(outcome.session.provider)
    if outcome.is_exact:
        return Text(f"✓ {who} received exactly T × its bid: {format_mor(outcome.received_wei)}", style="bold green")
    return Text(
        f"✗ {who} received {format_mor(outcome.received_wei)}, not {format_mor(outcome.expected_wei)}", style="bold red"
    )
