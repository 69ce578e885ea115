"""A long log of certified batches, made up but signed by real keys: what a network of many users leaves behind."""

from collections.abc import Iterator
from hashlib import sha256

from consensus.committee import Member
from consensus.market.batch import apply_batch, propose_batch
from consensus.market.ledger_state import Ledger
from consensus.market.settlement import VerifiedSettlements, certified_ids
from consensus.params import NetworkParams
from consensus.tendermint.certificate import assemble_certificate
from contracts.signing import Key
from contracts.typed_data import ZERO_DIGEST, Address, Digest, digest
from gossip.messages.base import Signed, Unit, encode, sign
from gossip.messages.committee import BatchBody, BatchHeader, CertifiedBatch, DayOpening, Precommit, batch_hash
from gossip.messages.market import AccessPass, Rfc, Ticket
from gossip.messages.records import Bid
from gossip.messages.session import Cosigned, Receipt, Report, Settlement
from node.network_file import ContractAddresses, NetworkFile
from testnet.errors import TestnetError

GENESIS_MS = 1_700_000_000_000
FAR_MS = GENESIS_MS + 10**12
MEMBERS = 4
PROVIDERS = 50
RFCS_PER_PASS = 10
TOKENS = 100
PRICE_WEI = 10**11
MODEL = Digest(sha256(b"bench model").digest())


class LogBuilder:
    """Makes a log batch by batch. Every settlement has all seven signatures that a desk hands in after a receipt."""

    def __init__(self, params: NetworkParams | None = None, members: int = MEMBERS) -> None:
        self.members = sorted((_key(f"member {i}") for i in range(members)), key=lambda key: key.address)
        """In the committee's order."""
        self.network = NetworkFile(
            name="bench",
            genesis_ms=GENESIS_MS,
            chain_id=77_101,
            contracts=ContractAddresses(*(Address(bytes([number]) * 20) for number in (1, 2, 3))),
            epoch=1,
            members=tuple(Member(member.address, 10**21) for member in self.members),
            params=params or NetworkParams(min_providers=1, pair_percent=100, audit_slots=0),
            snapshot_block=1,
            supply_wei=10**25,
            budget_wei=3_456 * 10**18,
            reference_price_wei=PRICE_WEI,
            listed=(MODEL,),
        )
        self._terms, self._committee = self.network.terms(), self.network.committee()
        self._domain = self._terms.domain
        self._providers = [_key(f"provider {number}") for number in range(PROVIDERS)]
        self._bids = [self._bid(provider) for provider in self._providers]
        self._made = 0
        self._session = self.members[0]
        self._pass = self._open_session(0)

    def batches(self, count: int, settlements: int) -> Iterator[tuple[int, bytes]]:
        """Height and encoding of ``count`` batches of ``settlements`` each, one a slot."""
        terms, ledger = self._terms, self.network.genesis()
        verified = VerifiedSettlements(terms)
        for slot in range(1, count + 1):
            batch, ledger = self._batch(ledger, slot, settlements, verified)
            yield ledger.height, encode(batch)

    def _batch(
        self, ledger: Ledger, slot: int, settlements: int, verified: VerifiedSettlements
    ) -> tuple[CertifiedBatch, Ledger]:
        terms, committee = self._terms, self._committee
        pending = [self.settlement(slot) for _ in range(settlements)]
        for settlement in pending:
            verified.note(settlement, certified_ids(settlement, terms))
        account, day = ledger.account, terms.params.day_of(slot)
        opening = DayOpening(day, account.snapshot_block, account.supply_wei, account.budget_wei)
        header, body, rejected = propose_batch(
            ledger,
            terms,
            proposer=committee.proposer(ledger.height + 1, 0),
            slot=slot,
            reveal=ZERO_DIGEST,
            opening=opening if day != ledger.day else None,
            commitments=(),
            pending=pending,
            verified=verified,
        )
        if rejected:
            raise TestnetError(f"the made-up log does not hold: {rejected[0].reason}")
        after = apply_batch(ledger, terms, header, body, verified=verified)
        for settlement in pending:
            verified.forget(settlement)
        return self._certify(header, body), after

    def _certify(self, header: BatchHeader, body: BatchBody) -> CertifiedBatch:
        value = batch_hash(header)
        vote = Precommit(header.height, 0, value, self._committee.root)
        signatures = {member.address: member.sign(vote, self._domain) for member in self.members}
        return CertifiedBatch(header, assemble_certificate(header.height, 0, value, self._committee, signatures), body)

    def _bid(self, provider: Key) -> Signed[Bid]:
        return sign(
            Bid(provider.address, MODEL, Unit.TEXT_TOKEN, PRICE_WEI, 4, 2_048, 1, FAR_MS), provider, self._domain
        )

    def _open_session(self, day: int) -> Signed[AccessPass]:
        """A new session key and its pass."""
        self._session, router = _key(f"session {self._made}"), self.members[0]
        granted = AccessPass(self._session.address, day, 1_000_000, 9, router.address, Digest(bytes(32)))
        return sign(granted, router, self._domain)

    def settlement(self, slot: int) -> Settlement:
        """A whole session, matched one slot before ``slot`` and passed."""
        matched, domain, router = slot - 1, self._domain, self.members[0]
        day = self._terms.params.day_of(matched)
        if self._made % RFCS_PER_PASS == 0 or self._pass.payload.day != day:
            self._pass = self._open_session(day)
        session, provider = self._session, self._providers[self._made % PROVIDERS]
        asked = Rfc(self._pass, session.address, self._made, MODEL, Unit.TEXT_TOKEN, 256, 512, FAR_MS)
        rfc = sign(asked, session, domain)
        bid = self._bids[self._made % PROVIDERS]
        told = Ticket(rfc.id(domain), session.address, bid, 256, 512, matched, FAR_MS, router.address)
        ticket = sign(told, router, domain)
        ticket_id = ticket.id(domain)
        receipt = Receipt(ticket_id, TOKENS, 12, MODEL, "stop")
        value = digest(domain, receipt)
        self._made += 1
        return Settlement(
            rfc,
            ticket,
            None,  # as a desk does it: the receipt counts
            Cosigned(receipt, session.sign_digest(value), provider.sign_digest(value)),
            sign(Report(ticket_id, session.address, TOKENS, 200, 2_000, True), session, domain),
        )


def _key(name: str) -> Key:
    """The same in every run: worth nothing, for benchmarks alone."""
    return Key(sha256(b"bench " + name.encode()).digest())
