"""A Byzantine member: an honest core whose frames are changed on their way out, with its own key at hand."""

from collections import deque
from collections.abc import Mapping, Sequence
from random import Random

from msgspec.structs import replace

from consensus.market.batch import propose_batch
from consensus.market.errors import MarketError
from contracts.typed_data import ZERO_DIGEST, Digest, Signature, Uint256
from gossip.errors import MessageError
from gossip.messages.base import Signed, encode, sign
from gossip.messages.committee import (
    BatchBody,
    BatchHeader,
    CertifiedBatch,
    DayOpening,
    DecidedFrame,
    DrawnMember,
    HandOver,
    HandOverFrame,
    LinkFrame,
    PolkaFrame,
    Precommit,
    PrecommitFrame,
    Prevote,
    PrevoteFrame,
    ProposalFrame,
    StatusFrame,
    batch_hash,
    decode_link_frame,
)
from gossip.messages.listing import ListingFrame, ListingOrder, ListModel
from testnet.simulator.faults import Byzantine, Misdeed
from testnet.simulator.node import SimulatedNode
from testnet.simulator.setting import Setting, named_key
from testnet.simulator.workload import MODEL

_OTHER = Digest(b"\x0d" * 32)

_MEMORY = 64
"""Frames that it remembers, to say them again or to lie about them."""


class Liar:
    """Commits the misdeeds of one member's plan."""

    def __init__(self, plan: Byzantine, node: SimulatedNode, setting: Setting, chance: Random) -> None:
        self._plan = plan
        self._node = node
        self._setting = setting
        self._chance = chance
        self._heard: deque[LinkFrame] = deque(maxlen=_MEMORY)
        self._other_proposals: dict[Digest, ProposalFrame | None] = {}
        self._wrong_proposals: dict[Digest, ProposalFrame] = {}

    def hear(self, frame: LinkFrame) -> None:
        """Remember what others say."""
        self._heard.append(frame)

    def frames(self, frame: LinkFrame) -> Sequence[LinkFrame]:
        """What one receiver gets instead of ``frame``."""
        self._heard.append(frame)
        if self._chance.randrange(100) >= self._plan.percent:
            return (frame,)
        match self._chance.choice(self._plan.misdeeds):
            case Misdeed.EQUIVOCATE:
                return (self._equivocate(frame),)
            case Misdeed.MUTATE:
                return self._mutate(frame)
            case Misdeed.WITHHOLD:
                return ()
            case Misdeed.REPLAY:
                return (frame, *self._chance.choices(self._heard, k=2))
            case Misdeed.FORGE:
                return (frame, *self._forge())
            case Misdeed.MISLEAD:
                return (self._mislead(frame),)

    # Different things to different members.

    def _equivocate(self, frame: LinkFrame) -> LinkFrame:
        domain, key = self._setting.terms.domain, self._node.key
        match frame:
            case PrevoteFrame(vote):
                return PrevoteFrame(sign(replace(vote.payload, batch_hash=self._other_value()), key, domain))
            case PrecommitFrame(vote):
                return PrecommitFrame(sign(replace(vote.payload, batch_hash=self._other_value()), key, domain))
            case ProposalFrame():
                return self._other_proposal(frame) or frame
            case _:
                return frame

    def _other_value(self) -> Digest:
        return self._chance.choice((ZERO_DIGEST, *self._node.core.height.values))

    def _other_proposal(self, frame: ProposalFrame) -> ProposalFrame | None:
        """A second batch that is as valid as the first: the last settlement left out, or the commitments."""
        first = frame.proposal.payload.batch_hash
        if first not in self._other_proposals:
            self._other_proposals[first] = self._make_other(frame)
        return self._other_proposals[first]

    # The same wrong thing to all.

    def _mislead(self, frame: LinkFrame) -> LinkFrame:
        if not isinstance(frame, ProposalFrame):
            return frame
        first = frame.proposal.payload.batch_hash
        if first not in self._wrong_proposals:
            makers = (self._wrong_root, self._unfair_opening, self._slot_to_come, self._wrong_listing)
            self._wrong_proposals[first] = self._chance.choice(makers)(frame)
        return self._wrong_proposals[first]

    def _wrong_root(self, frame: ProposalFrame) -> ProposalFrame:
        """A header that promises another result than its body has."""
        header = frame.header
        wrong: Mapping[str, object] = {
            "state_root": _OTHER,
            "credit_root": _OTHER,
            "beacon": _OTHER,
            "parent": _OTHER,
            "total_credited": Uint256(header.total_credited + 1),
            "bootstrap_credited": Uint256(header.bootstrap_credited + 1),
        }
        name = self._chance.choice(sorted(wrong))
        return self._signed(frame, replace(header, **{name: wrong[name]}), frame.body)

    def _unfair_opening(self, frame: ProposalFrame) -> ProposalFrame:
        """A batch that is right in itself, on a day that begins with other numbers, or with another committee."""
        opening = frame.body.opening
        if opening is None:
            return self._wrong_root(frame)
        unfair = (
            replace(opening, budget_wei=Uint256(2 * opening.budget_wei)),
            replace(opening, supply_wei=Uint256(opening.supply_wei // 2)),
            replace(opening, drawn=self._friends() if not opening.drawn else ()),
        )
        return self._repropose(frame, self._chance.choice(unfair), frame.body) or self._wrong_root(frame)

    def _friends(self) -> tuple[DrawnMember, ...]:
        """Four strangers, this member's for all anybody knows."""
        strangers = [named_key(f"friend {number}").address for number in range(4)]
        return tuple(DrawnMember(address, Uint256(10**21)) for address in sorted(strangers))

    def _wrong_listing(self, frame: ProposalFrame) -> ProposalFrame:
        """A batch with an order that was taken before, or that this member alone gives, as often as there are seats."""
        taken = [told for batch in self._node.disk.batches for told in batch.body.listings]
        alone = ListModel(MODEL, False, frame.header.day)
        signature = self._node.key.sign(alone, self._setting.terms.domain)
        forged = ListingOrder(alone, (signature,) * self._setting.members)
        body = replace(frame.body, listings=(self._chance.choice((*taken, forged)),))
        return self._signed(frame, replace(frame.header, body_root=body.root), body)

    def _slot_to_come(self, frame: ProposalFrame) -> ProposalFrame:
        """A batch of a slot that has not ended."""
        return self._signed(frame, replace(frame.header, slot=frame.header.slot + 3), frame.body)

    def _signed(self, frame: ProposalFrame, header: BatchHeader, body: BatchBody) -> ProposalFrame:
        payload = replace(frame.proposal.payload, batch_hash=batch_hash(header))
        return ProposalFrame(sign(payload, self._node.key, self._setting.terms.domain), header, body)

    def _repropose(self, frame: ProposalFrame, opening: DayOpening | None, body: BatchBody) -> ProposalFrame | None:
        """The batch made anew with ``opening``, and with the commitments and settlements of ``body``."""
        header = frame.header
        try:
            other, other_body, _ = propose_batch(
                self._node.ledger,
                self._setting.terms,
                proposer=header.proposer,
                slot=header.slot,
                reveal=header.reveal,
                opening=opening,
                commitments=body.commitments,
                pending=body.settlements,
                hand_over=body.hand_over,
                listings=body.listings,
                verified=self._setting.verified,
            )
        except MarketError:
            return None  # its own ledger has moved on: there is nothing to propose any more
        return self._signed(frame, other, other_body)

    def _make_other(self, frame: ProposalFrame) -> ProposalFrame | None:
        header, body = frame.header, frame.body
        keeps = body.settlements[:-1] if len(body.settlements) > 1 else body.settlements
        less = replace(body, commitments=body.commitments[:-1], settlements=keeps)
        other = self._repropose(frame, body.opening, less)
        if other is None or batch_hash(other.header) != batch_hash(header):
            return other
        return self._signed(frame, replace(header, total_credited=Uint256(header.total_credited + 1)), other.body)

    # Changed bytes.

    def _mutate(self, frame: LinkFrame) -> Sequence[LinkFrame]:
        data = bytearray(encode(frame))
        for _ in range(self._chance.randint(1, 3)):
            data[self._chance.randrange(len(data))] ^= 1 << self._chance.randrange(8)
        try:
            return (decode_link_frame(bytes(data)),)
        except MessageError:
            return ()  # no link gives such bytes to a member

    # Lies.

    def _forge(self) -> Sequence[LinkFrame]:
        forgers = (
            *(self._forged_decision, self._forged_polka, self._forged_status, self._stray_vote),
            *(self._forged_hand_over, self._lone_order),
        )
        return self._chance.choice(forgers)()

    def _forged_hand_over(self) -> Sequence[LinkFrame]:
        """Its word for a committee that nobody drew."""
        ledger = self._node.core.ledger
        next_root = Digest(self._chance.randbytes(32))
        hand_over = HandOver(ledger.running.epoch, ledger.day, ledger.committee.root, next_root)
        return (HandOverFrame(sign(hand_over, self._node.key, self._setting.terms.domain)),)

    def _lone_order(self) -> Sequence[LinkFrame]:
        """Its own word for a list without the model that is asked for, of some day."""
        order = ListModel(MODEL, False, max(0, self._node.ledger.day + self._chance.randint(-8, 8)))
        return (ListingFrame(sign(order, self._node.key, self._setting.terms.domain)),)

    def _forged_status(self) -> Sequence[LinkFrame]:
        height = max(0, self._node.core.height.number + self._chance.randint(-3, 3))
        return (StatusFrame(height, self._chance.randint(0, 5)),)

    def _stray_vote(self) -> Sequence[LinkFrame]:
        """A vote of its own in a round or height where nobody is."""
        core, setting = self._node.core, self._setting
        height = core.height.number + self._chance.randint(0, 1)
        round_ = core.height.round + self._chance.randint(0, 5)
        value = self._other_value()
        if self._chance.random() < 0.5:
            prevote = Prevote(height, round_, self._chance.randint(0, round_), value)
            return (PrevoteFrame(sign(prevote, self._node.key, setting.terms.domain)),)
        precommit = Precommit(height, round_, value, core.ledger.committee.root)
        return (PrecommitFrame(sign(precommit, self._node.key, setting.terms.domain)),)

    def _forged_polka(self) -> Sequence[LinkFrame]:
        """Prevotes that are no polka: one vote many times over, or too few, or for several batches."""
        votes = [frame.vote for frame in self._heard if isinstance(frame, PrevoteFrame)]
        if not votes:
            return ()
        count = self._setting.members
        if self._chance.random() < 0.5:
            return (PolkaFrame((self._chance.choice(votes),) * count),)
        return (PolkaFrame(tuple(self._chance.choices(votes, k=count))),)

    def _forged_decision(self) -> Sequence[LinkFrame]:
        """A certificate for what nobody decided, made of signatures that were given for something else."""
        if not self._node.disk.batches:
            return ()
        batch = self._chance.choice(self._node.disk.batches[-3:])
        forgers = (self._too_few, self._repeated, self._other_round, self._richer, self._next_height, self._other_body)
        return (DecidedFrame(self._chance.choice(forgers)(batch)),)

    def _too_few(self, batch: CertifiedBatch) -> CertifiedBatch:
        """The next height's batch under half of a quorum."""
        signatures = batch.certificate.signatures[: self._setting.members // 2]
        return self._under(self._next_height(batch), signatures)

    def _repeated(self, batch: CertifiedBatch) -> CertifiedBatch:
        """Its own signature, as often as there are members."""
        forged = self._next_height(batch)
        certificate = forged.certificate
        own = Precommit(certificate.height, certificate.round, certificate.batch_hash, certificate.committee_root)
        signed: Signed[Precommit] = sign(own, self._node.key, self._setting.terms.domain)
        return self._under(forged, (signed.signature,) * self._setting.members)

    def _other_round(self, batch: CertifiedBatch) -> CertifiedBatch:
        return replace(batch, certificate=replace(batch.certificate, round=batch.certificate.round + 1))

    def _richer(self, batch: CertifiedBatch) -> CertifiedBatch:
        forged = self._next_height(batch)
        header = replace(forged.header, total_credited=Uint256(forged.header.total_credited + 10**18))
        return CertifiedBatch(header, replace(forged.certificate, batch_hash=batch_hash(header)), forged.body)

    def _next_height(self, batch: CertifiedBatch) -> CertifiedBatch:
        """The batch once more, as the one that its receivers wait for."""
        height = self._node.core.height.number
        header = replace(batch.header, height=height, parent=self._node.ledger.parent)
        certificate = replace(batch.certificate, height=height, batch_hash=batch_hash(header))
        return CertifiedBatch(header, certificate, batch.body)

    def _other_body(self, batch: CertifiedBatch) -> CertifiedBatch:
        return replace(batch, body=replace(batch.body, settlements=batch.body.settlements[:-1]))

    def _under(self, batch: CertifiedBatch, signatures: tuple[Signature, ...]) -> CertifiedBatch:
        return replace(batch, certificate=replace(batch.certificate, signatures=signatures))
