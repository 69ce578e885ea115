"""Sessions that a second opinion may be asked for, and the opening of those that were picked (S8).

Prompts stay in memory and go nowhere but to a scorer that the beacon has drawn. Both sides of a session keep its
transcript: the user's agent opens it as soon as it is picked; the provider, who has more to lose, where the user has
not by a quarter of the window, and at once where a scorer has said Fail.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import trio

from consensus.market.opinions import Offer, Pick, turns
from contracts.typed_data import Address, Digest
from gossip.errors import GossipError, MalformedMessage, TransportError
from gossip.messages import Signed, encode
from gossip.messages.committee import CertifiedBatch
from gossip.messages.opinions import OpenTranscript, Opinion, decode_opined
from gossip.topics import OPINION
from inference.metering import find_committed
from node.context import Node, now_ms
from node.roles.public import PublicState

MAX_BYTES = 64 << 20
"""Transcripts kept at once, their prompts' bytes and four for each T; the oldest go first."""

OPEN_S = 120.0
"""How long a scorer may take."""

OPENING = 8
"""Transcripts being opened at once."""

KEPT_VERDICTS = 4_096
"""Picked sessions whose verdicts are remembered."""

ID_BYTES = 4


@dataclass(frozen=True, slots=True)
class Transcript:
    """One session's. ``slot`` is when it ended."""

    body: bytes
    token_ids: tuple[int, ...]
    slot: int

    @property
    def size(self) -> int:
        """Bytes that it counts for."""
        return len(self.body) + ID_BYTES * len(self.token_ids)


class Transcripts:
    """Bounded, in memory: query bodies and token ids by ticket, oldest first."""

    def __init__(self) -> None:
        self._held: OrderedDict[Digest, Transcript] = OrderedDict()
        self._bytes = 0

    def keep(self, ticket_id: Digest, transcript: Transcript) -> None:
        """Remember a session that has ended; one without a T is nobody's concern."""
        if not transcript.token_ids or ticket_id in self._held:
            return
        self._held[ticket_id] = transcript
        self._bytes += transcript.size
        while self._bytes > MAX_BYTES:
            self.forget(next(iter(self._held)))

    def find(self, ticket_id: Digest) -> Transcript | None:
        """A session's transcript, where it is still here."""
        return self._held.get(ticket_id)

    def forget(self, ticket_id: Digest) -> None:
        """It will not be asked for any more."""
        if (held := self._held.pop(ticket_id, None)) is not None:
            self._bytes -= held.size

    def forget_before(self, slot: int) -> None:
        """Sessions that ended before ``slot`` can't be picked any more."""
        while self._held and next(iter(self._held.values())).slot < slot:
            self.forget(next(iter(self._held)))


class Opener:
    """Opens to the drawn scorers what was picked of ``transcripts``.

    ``patience`` is the part of the window, in slots, that is left to the other side before this one opens it;
    ``file`` has a verdict that this side likes (a Pass, or that the scorer can't read it) filed once more, should its
    scorer forget.
    """

    def __init__(
        self,
        node: Node,
        public: PublicState,
        transcripts: Transcripts,
        *,
        patience: int,
        file: Callable[[Signed[Opinion]], None],
    ) -> None:
        self._node = node
        self._public = public
        self._transcripts = transcripts
        self._patience = patience
        self._file = file
        self._wake = trio.Event()
        self._busy: set[Digest] = set()
        self.verdicts: OrderedDict[Digest, dict[Address, Signed[Opinion]]] = OrderedDict()
        """By ticket and scorer: what came back."""
        public.on_batch.append(self._on_batch)

    async def run(self) -> None:
        """Open for ever; nothing to do on a network without second opinions."""
        if self._node.terms.params.audit_slots == 0:
            return
        async with trio.open_nursery() as nursery:
            slot = self._node.slot()
            while True:
                self._begin(nursery)
                self._wake = trio.Event()
                with trio.move_on_after(max(0.05, self._node.ms_until(slot + 1) / 1_000)):
                    await self._wake.wait()
                slot = self._node.slot()

    def _on_batch(self, _: CertifiedBatch) -> None:
        self._wake.set()

    def _begin(self, nursery: trio.Nursery) -> None:
        params = self._node.terms.params
        self._transcripts.forget_before(self._node.slot() - params.settle_window_slots - 2 * params.audit_slots)
        for some in self._public.ledger.audits.picks.values():
            for ticket_id, pick in some.items():
                if self._transcripts.find(ticket_id) is None:
                    continue
                scorer = None if pick.decision else self._next(ticket_id, pick)
                if scorer is not None and ticket_id not in self._busy and len(self._busy) < OPENING:
                    self._busy.add(ticket_id)
                    nursery.start_soon(self._open, ticket_id, pick, scorer)

    def _next(self, ticket_id: Digest, pick: Pick) -> Offer | None:
        """The scorer to ask now: the first whose turn it is and who has not answered."""
        slot = self._node.slot()
        if not pick.given and slot < pick.slot + self._patience:
            return None
        heard = {one.scorer for one in pick.given} | self.verdicts.get(ticket_id, {}).keys()
        open_to = pick.scorers[: turns(pick, slot, self._node.terms.params)]
        return next((one for one in open_to if one.provider not in heard), None)

    async def _open(self, ticket_id: Digest, pick: Pick, scorer: Offer) -> None:
        try:
            opinion = await self._ask(ticket_id, pick, scorer.provider)
        except GossipError as error:
            self._node.log.info(
                "transcript not opened", ticket=ticket_id.hex(), scorer=scorer.provider.hex(), reason=str(error)
            )
            await trio.sleep(self._node.terms.params.slot_ms / 1_000)
        else:
            if opinion is not None:
                self._note(ticket_id, opinion)
        finally:
            self._busy.discard(ticket_id)
            self._wake.set()

    def _note(self, ticket_id: Digest, opinion: Signed[Opinion]) -> None:
        self.verdicts.setdefault(ticket_id, {})[opinion.payload.scorer] = opinion
        while len(self.verdicts) > KEPT_VERDICTS:
            self.verdicts.popitem(last=False)
        passed = opinion.payload.passed
        self._node.log.info(
            "second opinion", ticket=ticket_id.hex(), scorer=opinion.payload.scorer.hex(), passed=passed
        )
        if passed or opinion.payload.is_unread:
            self._file(opinion)

    async def _ask(self, ticket_id: Digest, pick: Pick, scorer: Address) -> Signed[Opinion] | None:
        """The scorer's verdict; None where this node's transcript is not the one that was settled."""
        held = self._transcripts.find(ticket_id)
        if held is None:
            return None
        token_ids = find_committed(held.body, held.token_ids, pick.transcript)
        if not token_ids:
            self._node.log.warning("another transcript was settled than this node has", ticket=ticket_id.hex())
            self._transcripts.forget(ticket_id)
            return None
        record = self._public.book.record(scorer, now_ms())
        if record is None:
            raise TransportError(f"no node record of scorer 0x{scorer.hex()}")
        network = self._node.network
        if not network.is_connected(record.payload.peer_id):
            await network.connect(record.payload.multiaddrs, timeout=5)
        stream = await network.open_stream(record.payload.peer_id, OPINION, timeout=5)
        try:
            await stream.send(encode(OpenTranscript(ticket_id, held.body, token_ids)), timeout=30)
            opinion = decode_opined(await stream.receive(limit=1_024, timeout=OPEN_S) or b"").opinion
        finally:
            await stream.aclose()
        if opinion.signer(self._node.terms.domain) != scorer or opinion.payload.ticket_id != ticket_id:
            raise MalformedMessage("Opined", "not the scorer's word on this session")
        return opinion
