"""The oracle: looks at every step of every honest node, and knows what must never happen.

It trusts no node: it follows the decided batches with a ledger of its own, and checks each certificate itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from consensus.errors import CertificateInvalid, EvidenceInvalid
from consensus.market.batch import apply_batch
from consensus.market.bootstrap import bootstrap_reserve, bootstrap_shares
from consensus.market.errors import BatchInvalid
from consensus.market.ledger_state import Ledger, rescued_as_told, state_root
from consensus.market.settlement import VerifiedSettlements
from consensus.membership import RESCUE_ROUNDS, Term
from consensus.params import Terms
from consensus.tendermint.certificate import check_signers, signers_of, verify_certificate
from consensus.tendermint.evidence import Equivocation, verify_evidence
from contracts.typed_data import Address, Digest, Signature
from gossip.messages.committee import CertifiedBatch, batch_hash
from testnet.simulator.chain import Chain
from testnet.simulator.errors import Violation
from testnet.simulator.setting import Setting

HOPELESS = ("already_settled", "index_used", "issuer_not_a_member")
"""Why a run's settlements may be given up: settled, their RFC index spent by another, of a router that is none."""

RECENT = 3
"""Heights whose committees may be accused."""

_Place = tuple[Address, str, int, int]
"""Signer, type of message, height, round."""

_Certified = tuple[int, int, Digest, Digest, Digest]
"""All of a certificate but its signatures, and the hash of the header that came with it."""


@dataclass
class Oracle:
    """What one run has shown so far. ``faulty`` are the members whose key may sign anything."""

    setting: Setting
    faulty: frozenset[Address]
    chain: Chain
    settled: dict[Digest, int] = field(default_factory=dict)
    """Ticket to the height that settled it."""
    dropped: set[Digest] = field(default_factory=set)
    rounds: list[int] = field(default_factory=list)
    """The round of each height's first certificate that was seen."""
    accused: set[Address] = field(default_factory=set)
    _signed: dict[_Place, Digest] = field(default_factory=dict)
    _chain: list[tuple[Digest, Ledger]] = field(default_factory=list)
    _signers: dict[_Certified, dict[Signature, Address]] = field(default_factory=dict)
    """Who gave the signatures of a certificate that verified, so that one of some of them costs no second look."""
    _stood: tuple[_Certified, tuple[Signature, ...]] | None = None
    """The last certificate that was looked at: one node after the other shows the same."""
    decided: list[CertifiedBatch] = field(default_factory=list)
    """Each height's batch with the first certificate that was seen."""
    _compared: Ledger | None = None
    """The last ledger that was found to be right: nodes that share their memory of batches hold the same object."""
    _verified: VerifiedSettlements = field(init=False)

    def __post_init__(self) -> None:
        self._verified = self.setting.verified
        self._chain.append((self.setting.genesis.parent, self.setting.genesis))

    @property
    def height(self) -> int:
        """The highest height that any honest node has reached."""
        return len(self._chain) - 1

    @property
    def ledger(self) -> Ledger:
        """The ledger after the last decided batch, by the oracle's own reckoning."""
        return self._chain[-1][1]

    @property
    def epoch(self) -> int:
        """The running committee's."""
        return self._chain[-1][1].running.epoch

    def on_signed(self, signer: Address, kind: str, place: tuple[int, int], digest: Digest) -> None:
        """No honest double sign: one place (height and round, or an epoch), one message of a kind.

        What a restarted member repeats is the same.
        """
        if self._signed.setdefault((signer, kind, *place), digest) != digest:
            raise Violation("double_sign", f"{kind} of 0x{signer.hex()} at height {place[0]}, round {place[1]}")

    def on_certified(self, node: int, batch: CertifiedBatch) -> None:
        """A certificate that an honest node made or accepted verifies."""
        certificate, value = batch.certificate, batch_hash(batch.header)
        place = certificate.height, certificate.round, certificate.batch_hash, certificate.committee_root, value
        known = self._signers.get(place)
        if (place, certificate.signatures) == self._stood:
            return
        try:
            committee = self._before(batch).committee
            if known is None or not known.keys() >= set(certificate.signatures):
                verify_certificate(certificate, batch.header, committee, self.setting.terms.domain)
                signers = signers_of(certificate, self.setting.terms.domain)
                self._signers[place] = {**(known or {}), **dict(zip(certificate.signatures, signers, strict=True))}
            else:
                check_signers(tuple(known[signature] for signature in certificate.signatures), committee)
        except (CertificateInvalid, BatchInvalid) as error:
            raise Violation("certificate", f"node {node} at height {batch.header.height}: {error}") from error
        self._stood = place, certificate.signatures

    def _before(self, batch: CertifiedBatch) -> Ledger:
        """The ledger that ``batch`` builds on. Raises BatchInvalid for a rescue that the registry does not hold."""
        height = min(batch.header.height, len(self._chain)) - 1
        ledger = self._chain[height][1]
        told = batch.body.rescue
        if told is not None and Term(told.epoch, told.members) != self.chain.rescue_ever():
            raise BatchInvalid("rescue", told.epoch)
        return rescued_as_told(ledger, batch.body)

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

    def on_dropped(self, ticket_id: Digest, reason: str) -> None:
        """An honest node gave a settlement up: only what can never be settled may be given up."""
        if not reason.startswith(HOPELESS):
            raise Violation("given_up", f"ticket 0x{ticket_id.hex()}: {reason}")
        self.dropped.add(ticket_id)

    def on_accused(self, node: int, evidence: Equivocation) -> None:
        """Evidence holds, and convicts nobody honest."""
        culprit = self._culprit(node, evidence)
        if culprit not in self.faulty:
            raise Violation("innocent", f"node {node} accuses the honest 0x{culprit.hex()}")
        self.accused.add(culprit)

    def _culprit(self, node: int, evidence: Equivocation) -> Address:
        committees = {ledger.committee.root: ledger.committee for _, ledger in self._chain[-RECENT:]}
        if (term := self.chain.rescue_ever()) is not None:
            committees[term.committee.root] = term.committee
        wrong: EvidenceInvalid | None = None
        for committee in committees.values():
            try:
                return verify_evidence(evidence, committee, self.setting.terms.domain)
            except EvidenceInvalid as error:
                wrong = error
        raise Violation("evidence", f"node {node}: {wrong}") from wrong

    def is_dealt_with(self, tickets: Iterable[Digest]) -> bool:
        """Whether each of ``tickets`` is settled or was given up."""
        return all(ticket in self.settled or ticket in self.dropped for ticket in tickets)

    def _extend(self, batch: CertifiedBatch, value: Digest) -> None:
        setting = self.setting
        try:
            before = self._before(batch)
            after = apply_batch(before, setting.terms, batch.header, batch.body, verified=self._verified)
        except BatchInvalid as error:
            raise Violation("validity", f"height {batch.header.height} was decided: {error}") from error
        if batch.body.opening is not None and not self.chain.is_fair(batch.body.opening, before):
            raise Violation("opening", f"height {batch.header.height} was decided: {batch.body.opening}")
        self._conserves(before, after)
        for outcome in after.outcomes:
            if self.settled.setdefault(outcome.ticket_id, after.height) != after.height:
                raise Violation("settled_twice", f"ticket 0x{outcome.ticket_id.hex()} at height {after.height}")
        self._chain.append((value, after))
        self.decided.append(batch)
        self.rounds.append(batch.certificate.round % RESCUE_ROUNDS)

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
        gained[outcome.provider] = gained.get(outcome.provider, 0) + outcome.credited_wei
    for provider in {*before.credits, *after.credits, *gained}:
        expected = before.credits.get(provider, 0) + gained.get(provider, 0)
        if after.credits.get(provider, 0) != expected:
            found = after.credits.get(provider, 0)
            raise Violation("conservation", f"0x{provider.hex()} has {found} wei, not {expected}")
    if after.total_credited != sum(after.credits.values()):
        raise Violation("conservation", f"total of {after.total_credited} wei over credits of another sum")
    for account in after.days.values():
        if account.budget_left_wei < 0:
            raise Violation("conservation", f"day {account.day} is {-account.budget_left_wei} wei over budget (S37)")
