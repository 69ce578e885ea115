"""A Byzantine member: an honest core whose frames are changed on their way out, with its own key at hand."""

from collections import deque
from collections.abc import Sequence
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
    SettlementFrame,
    SettlementsFrame,
    StatusFrame,
    batch_hash,
    decode_link_frame,
)
from gossip.messages.records import BeaconCommitment
from gossip.messages.session import Settlement
from testnet.simulator.faults import Byzantine, Misdeed
from testnet.simulator.node import SimulatedNode
from testnet.simulator.setting import Setting

_MEMORY = 512
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
        self._cheats: dict[Digest, ProposalFrame] = {}

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
            case Misdeed.CHEAT:
                return (self._cheat(frame),)
            case Misdeed.HOARD:
                return () if isinstance(frame, SettlementFrame | SettlementsFrame) else (frame,)

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

    def _make_other(self, frame: ProposalFrame) -> ProposalFrame | None:
        body = frame.body
        keeps = body.settlements[:-1] if len(body.settlements) > 1 else body.settlements
        return self._remade(frame, body.opening, keeps, body.commitments[:-1])

    def _remade(
        self,
        frame: ProposalFrame,
        opening: DayOpening | None,
        settlements: Sequence[Settlement],
        commitments: Sequence[Signed[BeaconCommitment]],
    ) -> ProposalFrame | None:
        """A batch of other parts with the roots that follow from them; None where there can't be one."""
        setting, header = self._setting, frame.header
        try:
            other, body, _ = propose_batch(
                self._node.ledger,
                setting.terms,
                proposer=header.proposer,
                slot=header.slot,
                reveal=header.reveal,
                opening=opening,
                commitments=commitments,
                pending=settlements,
                hand_over=frame.body.hand_over,
                verified=setting.verified,
            )
        except MarketError:
            return None  # its own ledger has moved on: there is nothing to propose any more
        if batch_hash(other) == batch_hash(header):
            other = replace(other, total_credited=Uint256(other.total_credited + 1))
        return self._signed(frame, other, body)

    def _signed(self, frame: ProposalFrame, header: BatchHeader, body: BatchBody) -> ProposalFrame:
        payload = replace(frame.proposal.payload, batch_hash=batch_hash(header))
        return ProposalFrame(sign(payload, self._node.key, self._setting.terms.domain), header, body)

    def _cheat(self, frame: LinkFrame) -> LinkFrame:
        """The same to everybody: a batch that is well formed, well signed and wrong."""
        if not isinstance(frame, ProposalFrame):
            return frame
        first = frame.proposal.payload.batch_hash
        if first not in self._cheats:
            self._cheats[first] = self._make_cheat(frame)
        return self._cheats[first]

    def _make_cheat(self, frame: ProposalFrame) -> ProposalFrame:
        header, body = frame.header, frame.body
        if body.opening is not None and self._chance.random() < 0.8:
            return self._remade(frame, self._false_opening(body.opening), body.settlements, body.commitments) or frame
        false = self._chance.choice(
            (
                {"state_root": self._digest()},
                {"credit_root": self._digest()},
                {"parent": self._digest()},
                {"beacon": self._digest()},
                {"reveal": self._digest()},
                {"committee_root": self._digest()},
                {"total_credited": Uint256(header.total_credited + 10**18)},
                {"bootstrap_credited": Uint256(header.bootstrap_credited + 1)},
                {"slot": header.slot + 1},
                {"day": header.day + 1},
                {"height": header.height + 1},
            )
        )
        return self._signed(frame, replace(header, **false), body)

    def _false_opening(self, opening: DayOpening) -> DayOpening:
        own = DrawnMember(self._node.key.address, Uint256(10**24))
        others = tuple(one for one in opening.drawn if one.address != own.address)
        false = self._chance.choice(
            (
                {"supply_wei": Uint256(opening.supply_wei + 1)},
                {"budget_wei": Uint256(opening.budget_wei * 2)},
                {"snapshot_block": opening.snapshot_block + 50},
                {"drawn": tuple(sorted((*others, own), key=lambda one: one.address))},
            )
        )
        return replace(opening, **false)

    def _digest(self) -> Digest:
        return Digest(self._chance.randbytes(32))

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
            self._forged_hand_over,
        )
        return self._chance.choice(forgers)()

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

    def _forged_hand_over(self) -> Sequence[LinkFrame]:
        """Its word for a committee that nobody drew."""
        running = self._node.core.ledger.running
        hand_over = HandOver(running.epoch, self._node.core.ledger.day, running.committee.root, self._digest())
        return (HandOverFrame(sign(hand_over, self._node.key, self._setting.terms.domain)),)

    def _forged_polka(self) -> Sequence[LinkFrame]:
        """Prevotes that are no polka: one vote many times over, or too few, or for several batches."""
        votes = [frame.vote for frame in self._heard if isinstance(frame, PrevoteFrame)]
        if not votes:
            return ()
        count = len(self._setting.keys)
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
        signatures = batch.certificate.signatures[: len(self._setting.keys) // 2]
        return self._under(self._next_height(batch), signatures)

    def _repeated(self, batch: CertifiedBatch) -> CertifiedBatch:
        """Its own signature, as often as there are members."""
        forged = self._next_height(batch)
        certificate = forged.certificate
        own = Precommit(certificate.height, certificate.round, certificate.batch_hash, certificate.committee_root)
        signed: Signed[Precommit] = sign(own, self._node.key, self._setting.terms.domain)
        return self._under(forged, (signed.signature,) * len(self._setting.keys))

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
