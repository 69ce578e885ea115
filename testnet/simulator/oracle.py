"""The oracle: looks at every step of every honest node, and knows what must never happen.

It trusts no node: it follows the decided batches with a ledger of its own, and checks each certificate itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from consensus.committee import Committee
from consensus.errors import CertificateInvalid, EvidenceInvalid
from consensus.market.batch import apply_batch
from consensus.market.bootstrap import bootstrap_reserve, bootstrap_shares
from consensus.market.errors import BatchInvalid
from consensus.market.ledger_state import Ledger, rescue, state_root
from consensus.market.settlement import VerifiedSettlements
from consensus.membership import RESCUE_ROUNDS, Term
from consensus.params import Terms
from consensus.tendermint.certificate import check_signers, signers_of, verify_certificate
from consensus.tendermint.evidence import Equivocation, verify_evidence
from contracts.typed_data import Address, Digest, Signature
from gossip.messages.committee import CertifiedBatch, HandOver, Precommit, Prevote, Proposal, batch_hash
from testnet.simulator.errors import Violation
from testnet.simulator.listing import ListingOracle
from testnet.simulator.setting import Setting

_Place = tuple[Address, str, int, int]
"""Signer, type of message, height, round."""

_Certified = tuple[int, int, Digest, Digest, Digest]
"""All of a certificate but its signatures, and the hash of the header that came with it."""


@dataclass
class Oracle:
    """What one run has shown so far. ``faulty`` are the members whose key may sign anything."""

    setting: Setting
    faulty: frozenset[Address]
    settled: dict[Digest, int] = field(default_factory=dict)
    """Ticket to the height that settled it."""
    dropped: set[Digest] = field(default_factory=set)
    rounds: list[int] = field(default_factory=list)
    """The round of each height's first certificate that was seen; a rescued committee begins to count at 0."""
    accused: set[Address] = field(default_factory=set)
    rescued: Term | None = None
    """Whom the registry has put in the place of a silent committee."""
    _signed: dict[_Place, Digest] = field(default_factory=dict)
    _chain: list[tuple[Digest, Ledger]] = field(default_factory=list)
    _checked: dict[_Certified, dict[Signature, Address]] = field(default_factory=dict)
    """Who gave the signatures of certificates that verified, so that others made of them need no second look."""
    _rescues: dict[int, Term] = field(default_factory=dict)
    """Height to the committee that a rescue had decide it."""
    _compared: Ledger | None = None
    """The last ledger that was found to be right: nodes that share their memory of batches hold the same object."""
    listing: ListingOracle = field(init=False)
    _verified: VerifiedSettlements = field(init=False)

    def __post_init__(self) -> None:
        listed = frozenset(self.setting.genesis.listing.on(0))
        self.listing = ListingOracle(self.setting.terms, listed, self.faulty)
        self._verified = self.setting.verified
        self._chain.append((self.setting.genesis.parent, self.setting.genesis))

    @property
    def height(self) -> int:
        """The highest height that any honest node has reached."""
        return len(self._chain) - 1

    @property
    def ledger(self) -> Ledger:
        """The oracle's own, at that height."""
        return self._chain[-1][1]

    def on_signed(self, signer: Address, payload: Proposal | Prevote | Precommit | HandOver, digest: Digest) -> None:
        """No honest double sign: one place, one message (what a restarted member repeats is the same).

        A hand-over's place is its epoch: two of them would make two committees.
        """
        where = (payload.epoch, 0) if isinstance(payload, HandOver) else (payload.height, payload.round)
        place = signer, type(payload).__name__, *where
        if self._signed.setdefault(place, digest) != digest:
            raise Violation("double_sign", f"{place[1]} of 0x{signer.hex()} at height {place[2]}, round {place[3]}")

    def on_certified(self, node: int, batch: CertifiedBatch) -> None:
        """A certificate that an honest node made or accepted verifies."""
        certificate, header = batch.certificate, batch.header
        place = (
            certificate.height,
            certificate.round,
            certificate.batch_hash,
            certificate.committee_root,
            batch_hash(header),
        )
        known = self._checked.get(place, {})
        committee = self._decides(header.height)
        try:
            if known and all(signature in known for signature in certificate.signatures):
                check_signers(tuple(known[signature] for signature in certificate.signatures), committee)
                return
            verify_certificate(certificate, header, committee, self.setting.terms.domain)
        except CertificateInvalid as error:
            raise Violation("certificate", f"node {node} at height {header.height}: {error}") from error
        signers = signers_of(certificate, self.setting.terms.domain)
        self._checked[place] = known | dict(zip(certificate.signatures, signers, strict=True))

    def on_adopted(self, node: int, batch: CertifiedBatch, ledger: Ledger) -> None:
        """A node has moved to the ledger after ``batch``: agreement, and equal ledgers at equal heights."""
        self.on_certified(node, batch)
        height, value = batch.header.height, batch_hash(batch.header)
        if height == len(self._chain):
            self._extend(batch, value)
        if height > self.height:
            raise Violation("gap", f"node {node} is at height {height}, all others are at {self.height} or below")
        decided, _ = self._chain[height]
        if decided != value:
            raise Violation(
                "agreement", f"height {height}: node {node} has 0x{value.hex()}, another has 0x{decided.hex()}"
            )
        if ledger is not self._compared:
            self._compare(node, ledger, batch.header.state_root, value)
        self._compared = ledger

    def _compare(self, node: int, ledger: Ledger, expected: Digest, parent: Digest) -> None:
        """``expected`` is the root of the oracle's own ledger: following the batch has shown that."""
        found = state_root(ledger)
        if found != expected or ledger.parent != parent:
            raise Violation("root", f"node {node} at height {ledger.height}: 0x{found.hex()}, not 0x{expected.hex()}")

    def on_dropped(self, ticket_id: Digest) -> None:
        """An honest node gave a settlement up."""
        self.dropped.add(ticket_id)

    def on_accused(self, node: int, evidence: Equivocation) -> None:
        """Evidence holds, and convicts nobody honest."""
        try:
            committee = self._decides(evidence.first.payload.height)
            culprit = verify_evidence(evidence, committee, self.setting.terms.domain)
        except EvidenceInvalid as error:
            raise Violation("evidence", f"node {node}: {error}") from error
        if culprit not in self.faulty:
            raise Violation("innocent", f"node {node} accuses the honest 0x{culprit.hex()}")
        self.accused.add(culprit)

    def is_dealt_with(self, tickets: Iterable[Digest]) -> bool:
        """Whether each of ``tickets`` is settled or was given up."""
        return all(ticket in self.settled or ticket in self.dropped for ticket in tickets)

    def _before(self, height: int) -> Ledger:
        """The ledger that the batch of ``height`` follows. Raises :class:`Violation` where nobody is so far."""
        if not 0 < height <= len(self._chain):
            raise Violation("gap", f"height {height}, and nobody has decided height {height - 1}")
        before = self._chain[height - 1][1]
        if self.rescued is not None and self.rescued.epoch > before.running.epoch and height == len(self._chain):
            return rescue(before, self.rescued.committee)
        return before

    def _decides(self, height: int) -> Committee:
        """The committee of ``height``; the first one after a rescue is whichever has decided it, if any has."""
        if height < len(self._chain) and (told := self._rescues.get(height)) is not None:
            return told.committee
        return self._before(height).committee

    def _extend(self, batch: CertifiedBatch, value: Digest) -> None:
        setting, opening = self.setting, batch.body.opening
        before = self._before(batch.header.height)
        if opening is not None and opening != setting.opening(opening.day, before):
            raise Violation("opening", f"day {opening.day} was opened otherwise than the chain says")
        try:
            after = apply_batch(before, setting.terms, batch.header, batch.body, verified=self._verified)
        except BatchInvalid as error:
            raise Violation("validity", f"height {batch.header.height} was decided: {error}") from error
        self._conserves(before, after)
        self.listing.on_decided(batch, before.committee)
        for day in range(after.day, after.day + 3):
            if after.listing.on(day).keys() != self.listing.listed(day):
                raise Violation(
                    "listing", f"day {day} has a list of {len(after.listing.on(day))} models that nobody ordered"
                )
        for outcome in after.outcomes:
            if self.settled.setdefault(outcome.ticket_id, after.height) != after.height:
                raise Violation("settled_twice", f"ticket 0x{outcome.ticket_id.hex()} at height {after.height}")
        if before.is_rescued:
            self._rescues[after.height] = before.running
        self._chain.append((value, after))
        first = RESCUE_ROUNDS * before.running.epoch if before.is_rescued else 0
        self.rounds.append(batch.certificate.round - first)

    def _conserves(self, before: Ledger, after: Ledger) -> None:
        """S33, S35, S37: credits are the sum of what was settled, never more than the day's budget, and never fall."""
        check_conservation(before, after, self.setting.terms)


def check_conservation(before: Ledger, after: Ledger, terms: Terms) -> None:
    """Raise :class:`Violation` unless the credits of ``after`` are those of ``before`` and what its batch settled.

    The first batch of a day credits the leaders of the day before besides (S24).
    """
    gained: dict[Address, int] = {}
    if after.day > before.day:
        gained |= bootstrap_shares(before.day_credits, bootstrap_reserve(before.day, terms), terms.params)
    bootstrap = sum(gained.values())
    if after.bootstrap_credited != before.bootstrap_credited + bootstrap:
        raise Violation("conservation", f"{after.bootstrap_credited} wei of bootstrap, {bootstrap} were due (S24)")
    for outcome in after.outcomes:
        if outcome.credited_wei != outcome.tokens * outcome.price_wei:
            raise Violation("conservation", f"{outcome.credited_wei} wei for {outcome.tokens} T (S33)")
        if terms.params.audit_slots:
            continue
        gained[outcome.provider] = gained.get(outcome.provider, 0) + outcome.credited_wei
    _check_audits(before, after)
    for provider in {*before.credits, *after.credits, *gained} if not terms.params.audit_slots else ():
        expected = before.credits.get(provider, 0) + gained.get(provider, 0)
        if after.credits.get(provider, 0) != expected:
            found = after.credits.get(provider, 0)
            raise Violation("conservation", f"0x{provider.hex()} has {found} wei, not {expected}")
    if after.total_credited != sum(after.credits.values()):
        raise Violation("conservation", f"total of {after.total_credited} wei over credits of another sum")
    for account in after.days.values():
        if account.budget_left_wei < 0:
            raise Violation("conservation", f"day {account.day} is {-account.budget_left_wei} wei over budget (S37)")


def _check_audits(before: Ledger, after: Ledger) -> None:
    """Where credits mature (S8), what was settled is matured, at stake, immature or forfeited, and none of it twice."""
    settled = sum(outcome.credited_wei for outcome in after.outcomes)
    held = _accounted(after) - _accounted(before)
    if held != settled:
        raise Violation("conservation", f"{settled} wei were settled, {held} are accounted for")


def _accounted(ledger: Ledger) -> int:
    audits = ledger.audits
    matured = ledger.total_credited - ledger.bootstrap_credited - audits.opinions_wei
    at_stake = audits.deposits.held_wei + audits.deposits.leaving_wei
    return matured + at_stake + audits.immature_wei + audits.forfeited_wei
