"""Slots that are held for tickets which have expired: the router asks their providers whether a session runs.

A ticket that nobody opens is known to no provider, so none can file for it by itself. Without the question it would
hold a slot until the last moment at which a session on it could end.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable

import trio

from consensus.market.desk import Desk
from contracts.typed_data import Address, Digest
from gossip.errors import GossipError, MalformedMessage
from gossip.messages import encode
from gossip.messages.router import DeliveryFiling
from gossip.messages.seat import MAX_SEAT_BYTES, SeatAsk, SeatWord, decode_seat_ask, decode_seat_word
from gossip.streams import FrameStream
from gossip.topics import SEAT
from node.context import Node, now_ms
from node.roles.public import PublicState

AFTER_MS = 1_000
"""A ticket is asked about so long after it has expired: its provider's clock may be that much behind."""

ASK_S = 5.0
"""What a provider has for all questions of one round."""

PROVIDERS = 32
"""Providers asked at once."""

SAY_S = 5.0
"""How soon a router's next question must follow."""

PER_PEER, STREAMS = 2, 64
"""Streams with such questions that a provider has open at once, of one peer and in all."""


class SeatKeeper:
    """Asks after the silent tickets of one desk, each slot anew; ``file`` takes what the providers say."""

    def __init__(
        self, node: Node, public: PublicState, desk: Desk, file: Callable[[DeliveryFiling], Awaitable[object]]
    ) -> None:
        self._node = node
        self._public = public
        self._desk = desk
        self._file = file
        self._limit = trio.CapacityLimiter(PROVIDERS)

    async def run(self) -> None:
        """Ask for ever."""
        slot = self._node.slot()
        while True:
            slot = await self._node.next_slot(slot)
            silent: defaultdict[Address, list[Digest]] = defaultdict(list)
            for ticket_id, provider in self._desk.silent(now_ms() - AFTER_MS):
                silent[provider].append(ticket_id)
            async with trio.open_nursery() as nursery:
                for provider, tickets in silent.items():
                    nursery.start_soon(self._ask, provider, tickets)

    async def _ask(self, provider: Address, tickets: list[Digest]) -> None:
        async with self._limit:
            record = self._public.book.record(provider, now_ms())
            if record is None:
                return  # it sells nothing now either
            try:
                with trio.move_on_after(ASK_S):
                    network = self._node.network
                    stream = await network.open_stream(record.payload.peer_id, SEAT, timeout=ASK_S)
                    try:
                        for ticket_id in tickets:
                            word = await self._ask_one(stream, ticket_id)
                            await self._file(DeliveryFiling(ticket_id, None, None, runs=word.runs))
                        await stream.end()
                    finally:
                        await stream.aclose()
            except GossipError as error:
                self._node.log.info("seats not asked after", provider=provider.hex(), reason=str(error))

    @staticmethod
    async def _ask_one(stream: FrameStream, ticket_id: Digest) -> SeatWord:
        await stream.send(encode(SeatAsk(ticket_id)), timeout=ASK_S)
        word = decode_seat_word(await stream.receive(limit=MAX_SEAT_BYTES, timeout=ASK_S) or b"")
        if word.ticket_id != ticket_id:
            raise MalformedMessage("SeatWord", f"of ticket 0x{word.ticket_id.hex()}, another than was asked about")
        return word


async def answer_seats(stream: FrameStream, runs: Callable[[Digest], bool]) -> None:
    """The provider's half: whether a session ``runs`` on each ticket that the stream asks about."""
    while (data := await stream.receive(limit=MAX_SEAT_BYTES, timeout=SAY_S)) is not None:
        ticket_id = decode_seat_ask(data).ticket_id
        await stream.send(encode(SeatWord(ticket_id, runs(ticket_id))))
    await stream.end()
