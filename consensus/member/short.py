"""Short proposals: a batch travels as the hashes of its settlements, and a member asks for those that it lacks.

What comes together is the proposal that was made, or nothing: the core sees only whole ones, whose body is what their
header commits to. Nothing here is trusted, so nothing here is logged: after a crash a member is told again.
"""

from collections.abc import Callable, Iterable, Iterator

from consensus.market.batch import MAX_BODY_BYTES
from contracts.typed_data import Address, Digest, Domain
from gossip.errors import MalformedMessage
from gossip.messages.committee import (
    MAX_TOLD,
    BatchBody,
    ProposalFrame,
    SettlementsFrame,
    ShortProposalFrame,
    WantFrame,
    batch_hash,
)
from gossip.messages.session import Settlement

SHORT_FROM = 32
"""A batch of fewer settlements travels whole: that is less than a question and its answer."""

MAX_OPEN = 2
"""Short proposals of one member that are put together at a time; the older goes first."""

MAX_ASKED = 2
"""How many times over a member may ask for all settlements of one batch."""


def shorten(frame: ProposalFrame, least: int = SHORT_FROM) -> ProposalFrame | ShortProposalFrame:
    """``frame`` as it is to travel; whole where it has fewer than ``least`` settlements."""
    body = frame.body
    if len(body.settlements) < least:
        return frame
    named = tuple(one.digest for one in body.settlements)
    return ShortProposalFrame(
        frame.proposal,
        frame.header,
        body.opening,
        body.commitments,
        named,
        body.hand_over,
        body.rescue,
        body.opinions,
        body.listings,
    )


def check_short(member: Address, frame: ShortProposalFrame, domain: Domain) -> None:
    """Raise :class:`~gossip.errors.MessageError` unless ``member``, who sent it, signed a proposal of this header."""
    if len(set(frame.settlements)) < len(frame.settlements):
        # one settlement, named thousands of times, would be put together to more than the log takes
        raise MalformedMessage("ShortProposalFrame", "it names a settlement twice")
    proposal = frame.proposal
    if proposal.signer(domain) != member:
        raise MalformedMessage("ShortProposalFrame", "its proposer is not the member that sent it")
    if proposal.payload.batch_hash != batch_hash(frame.header):
        raise MalformedMessage("ShortProposalFrame", "the batch is another than the proposal names")


class _Assembly:
    """One short proposal, and what is there of it."""

    def __init__(self, frame: ShortProposalFrame, find: Callable[[Digest], Settlement | None]) -> None:
        self.frame = frame
        self._found = {name: held for name in frame.settlements if (held := find(name)) is not None}
        self.missing = set(frame.settlements) - self._found.keys()

    def add(self, name: Digest, settlement: Settlement) -> bool:
        """Whether it was missing."""
        if name not in self.missing:
            return False
        self.missing.remove(name)
        self._found[name] = settlement
        return True

    def want(self) -> WantFrame:
        """What to ask for."""
        places = tuple(place for place, name in enumerate(self.frame.settlements) if name in self.missing)
        return WantFrame(self.frame.proposal.payload.batch_hash, places)

    def whole(self) -> ProposalFrame:
        """The proposal, once nothing is missing.

        Raises :class:`~gossip.errors.MalformedMessage` where its body is larger than a batch may be.
        """
        short = self.frame
        settlements = tuple(self._found[name] for name in short.settlements)
        rest = short.hand_over, short.rescue, short.opinions, short.listings
        body = BatchBody(short.opening, short.commitments, settlements, *rest)
        if body.size > MAX_BODY_BYTES:
            raise MalformedMessage("ShortProposalFrame", f"its body has {body.size} bytes, {MAX_BODY_BYTES} at most")
        return ProposalFrame(short.proposal, short.header, body)


class ShortProposals:
    """Those that a member is putting together. ``find`` gives settlements that it holds, by hash."""

    def __init__(self, find: Callable[[Digest], Settlement | None]) -> None:
        self._find = find
        self._open: dict[Address, dict[Digest, _Assembly]] = {}

    def begin(self, member: Address, frame: ShortProposalFrame) -> ProposalFrame | WantFrame:
        """A proposal that ``member`` signed and sent: the whole one, or what to ask that member for.

        Said again, it is asked for again. Raises :class:`~gossip.errors.MalformedMessage` where it is too large.
        """
        value = frame.proposal.payload.batch_hash
        own = self._open.setdefault(member, {})
        assembly = own.pop(value, None) or _Assembly(frame, self._find)
        if not assembly.missing:
            return assembly.whole()
        own[value] = assembly
        if len(own) > MAX_OPEN:
            del own[next(iter(own))]
        return assembly.want()

    def wants(self, settlements: Iterable[Settlement]) -> bool:
        """Whether some proposal waits for one of these."""
        missing = [assembly.missing for own in self._open.values() for assembly in own.values()]
        return bool(missing) and any(one.digest in names for one in settlements for names in missing)

    def take(self, settlement: Settlement) -> Iterator[tuple[Address, ProposalFrame]]:
        """A settlement came: the proposals that are whole with it, and who made them. Too large ones are dropped."""
        if not any(self._open.values()):
            return
        name = settlement.digest
        for member, own in self._open.items():
            for value, assembly in tuple(own.items()):
                if assembly.add(name, settlement) and not assembly.missing:
                    del own[value]
                    try:
                        whole = assembly.whole()
                    except MalformedMessage:
                        continue  # larger than a batch may be: no member votes for it
                    yield member, whole

    def clear(self) -> None:
        """The height was decided."""
        self._open.clear()


class Answers:
    """What a member gives to those who lack settlements of a batch, each no more than :data:`MAX_ASKED` times."""

    def __init__(self) -> None:
        self._given: dict[tuple[Address, Digest], int] = {}

    def answer(self, member: Address, want: WantFrame, body: BatchBody) -> Iterator[SettlementsFrame]:
        """The settlements that ``member`` asks for, as far as they are in ``body``."""
        place = member, want.batch_hash
        left = MAX_ASKED * len(body.settlements) - self._given.get(place, 0)
        asked = sorted({number for number in want.places if number < len(body.settlements)})[: max(0, left)]
        self._given[place] = self._given.get(place, 0) + len(asked)
        for begin in range(0, len(asked), MAX_TOLD):
            yield SettlementsFrame(tuple(body.settlements[number] for number in asked[begin : begin + MAX_TOLD]))

    def clear(self) -> None:
        """The height was decided."""
        self._given.clear()
