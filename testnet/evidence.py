"""Ask a running network one prompt and follow it to the end: answer, session, batch, claim, and MOR on the chain."""

import time

import msgspec
import trio

from testnet.ask import RETRIED, Answer, ask, list_models
from testnet.control import BatchView, ClaimView, SessionView, TicketView, poll
from testnet.errors import AnswerRefused, NodeUnreadable, StepOverdue
from testnet.files import MODEL_NAME
from testnet.network import Network, RunningNode
from testnet.plan import TestnetOptions
from testnet.progress import Progress
from testnet.summary import Outcome, format_mor

BIDS_S = 90.0
"""How long bids may take to reach the user."""
ASK_S = 120.0
"""How long the network may refuse the prompt before it answers."""
RETRY_S = 0.5
SETTLE_S = 60.0
SETTLE_BLOCKS = 10
"""A batch or a claim may take SETTLE_S and so many inference blocks."""


async def follow(network: Network, options: TestnetOptions, progress: Progress) -> Outcome:
    """Ask ``options.prompt`` and wait until it is paid.

    Raises :class:`AnswerRefused`, or :class:`StepOverdue` naming what did not happen in time.
    """
    await wait_for_bids(network, progress)
    before = await network.balances()
    answer = await _ask_aloud(network, options, progress)
    names = {node.identity.address: node.name for node in network.nodes}
    session = await find_session(network, answer.rfc_id)
    ticket, batch = await _find_batch(network, session, progress)
    claim, after_wei = await _find_pay(network, session, ticket, before[session.provider.lower()], progress)
    return Outcome(
        prompt=options.prompt,
        answer=answer,
        session=session,
        ticket=ticket,
        batch=batch,
        claim=claim,
        before_wei=before[session.provider.lower()],
        after_wei=after_wei,
        names=names,
        bids={node.identity.address: node.identity.node.price_wei for node in network.of_kind("provider")},
    )


async def wait_for_bids(network: Network, progress: Progress) -> None:
    """Wait until the user's book holds every provider's bid and the bids count, from the next block on."""
    addresses = [node.identity.address for node in network.of_kind("provider")]
    with progress.step("Bids reach the user") as step:

        async def look() -> bool | None:
            book = await network.user.control.get("/book", msgspec.Raw)
            text = bytes(book).decode().lower() if book is not None else ""
            found = sum(address in text for address in addresses)
            step.say(f"{found} of {len(addresses)}")
            return True if found == len(addresses) and MODEL_NAME in await list_models(gateway(network)) else None

        await poll(f"the bids of {len(addresses)} providers reaching the user", look, BIDS_S)
        slot_ms = network.genesis.plan.params.slot_ms
        into_slot = (time.time_ns() // 1_000_000 - network.genesis_ms) % slot_ms
        step.say("they count from the next block on")
        await trio.sleep((slot_ms - into_slot) / 1_000)


def gateway(network: Network) -> str:
    """The user's OpenAI endpoint. Raises :class:`NodeUnreadable` where the user's node opened none."""
    url = network.user.ready.gateway_url
    if url is None:
        raise NodeUnreadable(str(network.user.identity.data_dir / "ready.json"), "names no gateway_url")
    return url


async def _ask_aloud(network: Network, options: TestnetOptions, progress: Progress) -> Answer:
    """Print the question and the answer as it comes; asked again while nobody can be matched yet."""
    progress.console.print(f"\n[bold]{MODEL_NAME}[/bold] is asked: ", end="")
    progress.stream(options.prompt + "\n\n")
    refused: AnswerRefused | None = None
    with trio.move_on_after(ASK_S):
        while True:
            try:
                return await ask(
                    gateway(network),
                    MODEL_NAME,
                    options.prompt,
                    max_tokens=options.max_tokens,
                    on_text=progress.stream,
                )
            except AnswerRefused as error:
                if error.status not in RETRIED:
                    raise
                refused = error
            finally:
                progress.stream("\n\n")
            await trio.sleep(RETRY_S)
    raise StepOverdue("an answer to the prompt", ASK_S, str(refused) if refused else "")


async def find_session(network: Network, rfc_id: str) -> SessionView:
    """The user's record of a session that has ended."""

    async def look() -> SessionView | None:
        session = await network.user.control.get(f"/sessions/{rfc_id}", SessionView)
        return session if session is not None and session.tokens is not None else None

    return await poll(f"the user's record of session {rfc_id}", look, 30.0)


def _settle_s(network: Network) -> float:
    return SETTLE_S + SETTLE_BLOCKS * network.genesis.plan.params.slot_ms / 1_000


async def _find_batch(network: Network, session: SessionView, progress: Progress) -> tuple[TicketView, BatchView]:
    """The certified batch that settles the session, as a node has it that takes no part in anything."""
    control = network.full.control

    async def look() -> tuple[TicketView, BatchView] | None:
        ticket = await control.get(f"/tickets/{session.ticket_id}", TicketView)
        batch = await control.get(f"/batches/{ticket.height}", BatchView) if ticket is not None else None
        return (ticket, batch) if ticket is not None and batch is not None else None

    with progress.step("The committee settles it in a batch") as step:
        what = f"a certified batch with ticket {session.ticket_id}"
        ticket, batch = await poll(what, look, _settle_s(network))
        step.detail = f"height {batch.height}, {len(batch.signers)} of {len(batch.members)} signed"
    return ticket, batch


async def _find_pay(
    network: Network, session: SessionView, ticket: TicketView, before_wei: int, progress: Progress
) -> tuple[ClaimView | None, int]:
    """The provider's claim and its balance once that has changed; at once where nothing was credited."""
    winner = next(n for n in network.of_kind("provider") if n.identity.address == session.provider.lower())
    if ticket.credited_wei == 0:
        return None, before_wei

    async def look() -> int | None:
        balance = (await network.balances())[winner.identity.address]
        return balance if balance != before_wei else None

    with progress.step(f"{winner.name} claims its MOR on the chain") as step:
        what = f"the claim of {winner.name} for batch {ticket.height} reaching the chain"
        after_wei = await poll(what, look, _settle_s(network))
        claim = await _find_claim(winner, ticket.height)
        step.detail = format_mor(after_wei - before_wei)
    return claim, after_wei


async def _find_claim(winner: RunningNode, height: int) -> ClaimView | None:
    """The provider's own record of its claim; the chain has spoken already, so none is no failure."""

    async def look() -> ClaimView | None:
        claims = await winner.control.get("/claims", tuple[ClaimView, ...]) or ()
        return next((claim for claim in claims if claim.height >= height and claim.tx_hash), None)

    try:
        return await poll(f"the record of {winner.name}'s claim", look, 10.0)
    except StepOverdue:
        return None
