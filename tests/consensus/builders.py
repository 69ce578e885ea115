"""Builders of whole, correctly signed market messages; a test changes what it is about and no more."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from typing import Any

from msgspec.structs import replace

from consensus.committee import Committee, Member
from consensus.market import access
from consensus.market.batch import Rejected, apply_batch, propose_batch
from consensus.market.beacon import chain_tip, day_seed, slot_secret
from consensus.market.book import StandingBid
from consensus.market.ledger_state import Ledger, genesis_ledger
from consensus.params import NetworkParams, Terms
from contracts.signing import Key
from contracts.typed_data import ZERO_DIGEST, Address, Digest, Domain, Uint256, digest
from gossip.messages.base import Signed, Unit, sign
from gossip.messages.committee import BatchBody, BatchHeader, DayOpening, ProviderRank
from gossip.messages.market import AccessPass, PassIssued, PassRequest, Rfc, Ticket
from gossip.messages.opinions import Opinion
from gossip.messages.records import BeaconCommitment, Bid, ModelProof, NodeRecord
from gossip.messages.session import Cosigned, Receipt, Report, Settlement, Voucher

GENESIS_MS = 1_700_000_000_000
MODEL = Digest(sha256(b"a model").digest())
OTHER_MODEL = Digest(sha256(b"another model").digest())
SALT = Digest(b"\x5a" * 32)
WEI = access.WEI
PRICE = 10**11
"""The genesis reference price, and what a provider bids unless a test says otherwise: wei per T."""
FAR_MS = GENESIS_MS + 10**12


@cache
def key(name: str) -> Key:
    """A key that is the same in every run: for tests, never for money."""
    return Key(sha256(b"test key " + name.encode()).digest())


def address(name: str) -> Address:
    return key(name).address


def named_digest(name: str) -> Digest:
    return Digest(sha256(name.encode()).digest())


def make_terms(**params: Any) -> Terms:
    """Terms of a test network; days are 100 slots unless told otherwise."""
    chosen: dict[str, Any] = {"day_slots": 100, "settle_window_slots": 100, "report_deadline_slots": 5}
    chosen |= {
        "endowment_mor": 100_000,
        "min_providers": 1,
        "pair_percent": 100,
        "audit_slots": 0,
        "deposit_tokens": 0,
    } | params
    return Terms(Domain(77_101, Address(b"\x77" * 20)), GENESIS_MS, NetworkParams(**chosen))


def _provider(one: ProviderRank) -> Address:
    return one.provider


@dataclass
class World:
    """A network with a committee, its secrets, and a count of what has been made so far."""

    terms: Terms = field(default_factory=make_terms)
    member_count: int = 4
    budget_wei: int = 3_456 * WEI
    supply_wei: int = 10_000_000 * WEI
    committed_days: int = 2
    ranks: dict[str, int] = field(default_factory=dict)
    """Providers' ranks by name, told by every opening: for the variant of S44."""
    listed: Sequence[Digest] = (MODEL, OTHER_MODEL)
    """Models on the list from the start."""
    made: int = 0

    @property
    def domain(self) -> Domain:
        return self.terms.domain

    @property
    def members(self) -> list[Key]:
        return [key(f"member {number}") for number in range(self.member_count)]

    @property
    def router(self) -> Key:
        """The member that issues passes and tickets unless a test says otherwise."""
        return self.members[0]

    @property
    def committee(self) -> Committee:
        return Committee.of(1, [Member(member.address, 1_000 * WEI) for member in self.members])

    def opening(self, day: int = 0, **changes: Any) -> DayOpening:
        ranks = tuple(sorted((ProviderRank(address(name), rank) for name, rank in self.ranks.items()), key=_provider))
        made = DayOpening(day, 100 + day, Uint256(self.supply_wei), Uint256(self.budget_wei), ranks=ranks)
        return replace(made, **changes) if changes else made

    def commitment(self, member: Key, day: int) -> Signed[BeaconCommitment]:
        tip = chain_tip(self.seed(member, day), self.terms.params.day_slots)
        return sign(BeaconCommitment(member.address, day, tip), member, self.domain)

    def seed(self, member: Key, day: int) -> Digest:
        return day_seed(sha256(b"test secrets" + member.reveal()).digest(), day)

    def secret(self, member: Key, slot: int) -> Digest:
        """The member's secret of ``slot``, zero on days that nobody has committed to."""
        params = self.terms.params
        day = params.day_of(slot)
        if day >= self.committed_days:
            return ZERO_DIGEST
        return slot_secret(self.seed(member, day), slot % params.day_slots, params.day_slots)

    def ledger(self, reference_price_wei: int = PRICE) -> Ledger:
        commitments = [self.commitment(member, day) for day in range(self.committed_days) for member in self.members]
        opening = self.opening()
        return genesis_ledger(self.terms, self.committee, opening, reference_price_wei, commitments, models=self.listed)

    def slot_ms(self, slot: int) -> int:
        return GENESIS_MS + slot * self.terms.params.slot_ms

    # What is gossiped.

    def record(self, provider: str = "provider", **changes: Any) -> Signed[NodeRecord]:
        made = NodeRecord(
            address(provider), f"peer-{provider}", ("full", "provider"), ("/ip4/127.0.0.1/tcp/1",), 1, FAR_MS
        )
        return sign(replace(made, **changes), key(provider), self.domain)

    def bid(self, provider: str = "provider", **changes: Any) -> Signed[Bid]:
        made = Bid(address(provider), MODEL, Unit.TEXT_TOKEN, PRICE, 4, 2_048, 1, FAR_MS)
        return sign(replace(made, **changes), key(provider), self.domain)

    def proof(self, provider: str = "provider", **changes: Any) -> Signed[ModelProof]:
        made = ModelProof(address(provider), MODEL, "small-model", "llama.cpp", FAR_MS)
        return sign(replace(made, **changes), key(provider), self.domain)

    def standing(self, provider: str = "provider", seen_slot: int = 0, **changes: Any) -> StandingBid:
        signed = self.bid(provider, **changes)
        return StandingBid(signed.id(self.domain), signed, seen_slot)

    # What leads to a session.

    def pass_request(self, user: str = "user", session: str = "session", **changes: Any) -> Signed[PassRequest]:
        made = PassRequest(address(user), address(session), 0, 0, GENESIS_MS)
        return sign(replace(made, **changes), key(user), self.domain)

    def access_pass(
        self, session: str = "session", issuer: Key | None = None, user: str = "user", **changes: Any
    ) -> Signed[AccessPass]:
        issuer = issuer or self.router
        commitment = access.pass_commitment(address(user), SALT)
        made = AccessPass(address(session), 0, 1_000_000, 9, issuer.address, commitment)
        return sign(replace(made, **changes), issuer, self.domain)

    def pass_issued(
        self, access_pass: Signed[AccessPass], request: Signed[PassRequest], salt: Digest = SALT
    ) -> PassIssued:
        return PassIssued(access_pass, request, salt, access_pass.payload.issuer)

    def rfc(
        self, session: str = "session", access_pass: Signed[AccessPass] | None = None, **changes: Any
    ) -> Signed[Rfc]:
        access_pass = access_pass or self.access_pass(session)
        made = Rfc(access_pass, address(session), 0, MODEL, Unit.TEXT_TOKEN, 256, 512, FAR_MS)
        return sign(replace(made, **changes), key(session), self.domain)

    def ticket(
        self, rfc: Signed[Rfc], bid: Signed[Bid] | None = None, slot: int = 1, router: Key | None = None, **changes: Any
    ) -> Signed[Ticket]:
        router, asked = router or self.router, rfc.payload
        made = Ticket(
            rfc_id=rfc.id(self.domain),
            session_key=asked.session_key,
            bid=bid or self.bid(),
            token_max=asked.token_max,
            prompt_bound=asked.prompt_bound,
            slot=slot,
            expires_ms=self.slot_ms(slot) + self.terms.params.ticket_ttl_ms,
            router=router.address,
        )
        return sign(replace(made, **changes), router, self.domain)

    # What comes out of a session.

    def voucher(self, ticket_id: Digest, tokens: int, session: str = "session") -> Signed[Voucher]:
        return sign(Voucher(ticket_id, address(session), tokens, named_digest("transcript")), key(session), self.domain)

    def receipt(self, ticket_id: Digest, tokens: int, session: str = "session", provider: str = "provider") -> Cosigned:
        receipt = Receipt(ticket_id, tokens, 12, named_digest("transcript"), "stop")
        value = digest(self.domain, receipt)
        return Cosigned(receipt, key(session).sign_digest(value), key(provider).sign_digest(value))

    def opinion(self, scorer: str, ticket_id: Digest, signer: str | None = None, **changes: Any) -> Signed[Opinion]:
        """A verdict on a transcript as :meth:`receipt` commits to it: Pass unless told otherwise."""
        made = Opinion(ticket_id, named_digest("transcript"), address(scorer), 100, 3, 210, True)
        return sign(replace(made, **changes), key(signer or scorer), self.domain)

    def report(self, ticket_id: Digest, tokens: int, session: str = "session", **changes: Any) -> Signed[Report]:
        made = Report(ticket_id, address(session), tokens, 200, 20 * max(1, tokens), True)
        return sign(replace(made, **changes), key(session), self.domain)

    def settlement(
        self,
        *,
        session: str = "session",
        provider: str = "provider",
        index: int | None = None,
        slot: int = 1,
        tokens: int = 100,
        token_max: int = 256,
        price_wei: int = PRICE,
        passed: bool = True,
        last_ms: int | None = None,
        user_tokens: int | None = None,
        voucher_tokens: int | None = None,
        with_report: bool = True,
        with_receipt: bool = True,
        rivals: Sequence[Signed[Bid]] = (),
        **pass_changes: Any,
    ) -> Settlement:
        """A whole signed session; every call takes the next RFC index unless one is given."""
        if index is None:
            index, self.made = self.made, self.made + 1
        day = self.terms.params.day_of(slot)
        access_pass = self.access_pass(session, **({"day": day} | pass_changes))
        rfc = self.rfc(session, access_pass, index=index, token_max=token_max)
        ticket = self.ticket(rfc, self.bid(provider, price_wei=price_wei), slot, rivals=tuple(rivals))
        ticket_id = ticket.id(self.domain)
        told = tokens if user_tokens is None else user_tokens
        report = self.report(
            ticket_id, told, session, passed=passed, last_ms=20 * max(1, told) if last_ms is None else last_ms
        )
        return Settlement(
            rfc,
            ticket,
            None if voucher_tokens is None else self.voucher(ticket_id, voucher_tokens, session),
            self.receipt(ticket_id, tokens, session, provider) if with_receipt else None,
            report if with_report else None,
        )

    # Batches.

    def propose(
        self,
        ledger: Ledger,
        pending: Sequence[Settlement] = (),
        *,
        slot: int | None = None,
        proposer: Key | None = None,
        opening: DayOpening | None = None,
        commitments: Sequence[Signed[BeaconCommitment]] = (),
        reveal: Digest | None = None,
        **options: Any,
    ) -> tuple[BatchHeader, BatchBody, tuple[Rejected, ...]]:
        slot = ledger.slot + 10 if slot is None else slot
        proposer = proposer or self.members[1]
        return propose_batch(
            ledger,
            self.terms,
            proposer=proposer.address,
            slot=slot,
            reveal=self.secret(proposer, slot) if reveal is None else reveal,
            opening=opening,
            commitments=commitments,
            pending=pending,
            **options,
        )

    def apply(self, ledger: Ledger, header: BatchHeader, body: BatchBody, **options: Any) -> Ledger:
        return apply_batch(ledger, self.terms, header, body, **options)

    def after(self, ledger: Ledger, pending: Sequence[Settlement] = (), **options: Any) -> Ledger:
        """The ledger after a batch of ``pending``, none of which may be rejected."""
        header, body, rejected = self.propose(ledger, pending, **options)
        if rejected:
            raise ValueError([left.reason for left in rejected])
        return self.apply(ledger, header, body)
