"""What a node tells its operator: the source behind the control API."""

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from consensus.committee import Committee
from consensus.market.allowances import Allowances
from consensus.market.desk import Desk
from consensus.market.errors import MarketError
from consensus.market.explain_access import Holding, explain_allowance, explain_day
from consensus.market.explain_earnings import explain_earnings
from consensus.market.explain_opinions import explain_credit
from consensus.market.ledger_state import account_of
from consensus.market.listing import is_payable
from consensus.market.proof import CreditProof
from consensus.market.seats import Held
from consensus.tendermint.certificate import signers_of
from contracts.errors import ChainError
from contracts.merkle import CreditTree
from contracts.typed_data import Address, Digest, Uint256
from gossip.messages import Signed
from gossip.messages.base import encode
from gossip.messages.committee import CertifiedBatch, HandOverCertificate, batch_hash
from gossip.messages.market import Rfc, Ticket
from gossip.messages.router import Matched
from node.context import Node, now_ms
from node.errors import Unanswerable
from node.proof_file import CommitteeEntry, HandOverEntry, ProofFile
from node.roles.balances import Balances
from node.roles.challenges import Challenger
from node.roles.demand import Demand
from node.roles.evidence import EvidencePool
from node.roles.feed import Feed
from node.roles.link import CommitteeLink
from node.roles.listings import Listings
from node.roles.member import CommitteeMember
from node.roles.network_metrics import NetworkMetrics
from node.roles.public import PublicState
from node.roles.sessions import SessionLog
from node.roles.why import Explainer

SIGNED_SHOWN = 200
"""Signatures of a member that are shown; its guard keeps many more."""


class NodeStatus:
    """Answers from what the roles hold; changes nothing."""

    def __init__(self, node: Node, public: PublicState, sessions: SessionLog, evidence: EvidencePool) -> None:
        self._node = node
        self._public = public
        self._sessions = sessions
        self._evidence = evidence
        self.over_issued: Mapping[tuple[Address, int], int] = {}
        """By router and day: T above a user's UserMax, as this member's own books have it."""
        self.balances = Balances(node, node.chain)
        """Balances at snapshot blocks; a member's are its router's own."""
        self.allowances: Allowances | None = None
        """A member's count of T issued to a user on a day, by all routers."""
        self.member: CommitteeMember | None = None
        self.link: CommitteeLink | None = None
        self.desk: Desk | None = None
        """A member's desk: whose slots it holds, and why."""
        self.challenger: Challenger | None = None
        self.listings: Listings | None = None
        self.demand: Demand | None = None
        self.feed: Feed | None = None
        self._explainer = Explainer(node, public)
        self._metrics = CollectorRegistry()
        self._metrics.register(NetworkMetrics(node.network.statistics))
        self._gauges = {
            name: Gauge(f"yellowstone_{name}", text, registry=self._metrics)
            for name, text in (
                ("height", "Certified batches applied"),
                ("slot", "Inference block that now falls into"),
                ("peers", "Connected peers"),
                ("total_credited_mor", "MOR credited since genesis"),
                ("pool", "Settlements waiting for a batch"),
                ("link_dropped_frames", "Committee frames that found a full queue"),
                ("feed_refused", "Well-signed bids, records and proofs that the book's rules refused"),
                ("feed_throttled", "Well-signed bids, records and proofs not passed on: their signer says too much"),
                ("feed_poor", "Well-signed bids and proofs not passed on: of bidders without MOR, or too many unknown"),
                ("rfcs_throttled", "Well-signed RFCs not passed on: their session key sends too many"),
            )
        }

        self._seats = Gauge(
            "yellowstone_seats_held", "Providers' slots that this router holds", ["why"], registry=self._metrics
        )

    async def status(self) -> dict[str, Any]:
        """Who this node is, its peers, its height, the day's numbers."""
        ledger, node = self._public.ledger, self._node
        account = ledger.account
        return {
            "address": node.address,
            "peer_id": node.network.peer_id,
            "roles": node.config.roles,
            "multiaddrs": node.network.multiaddrs,
            "peers": len(node.network.peers()),
            "height": ledger.height,
            "slot": node.slot(),
            "ledger_slot": ledger.slot,
            "day": ledger.day,
            "total_credited_wei": ledger.total_credited,
            "beacon": ledger.beacon,
            "reference_price_wei": account.reference_price_wei,
            "budget_wei": account.budget_wei,
            "credited_today_wei": account.credited_wei,
            "max_t": account.max_t,
            "epoch": ledger.running.epoch,
            "members": [member.address for member in ledger.committee.members],
            "committee": None if self.member is None else self.member.standing,
            "linked": 0 if self.link is None else len(self.link.linked),
            "seats_held": None if self.desk is None else self._seats_held(),
            "equivocators": self._evidence.equivocators(),
            "network": node.network.statistics(),
        }

    def _seats_held(self) -> dict[str, int]:
        """Slots of all providers that this router holds, by reason."""
        held = {} if self.desk is None else self.desk.seats_held(now_ms())
        return {str(why): held.get(why, 0) for why in Held}

    async def book(self) -> list[dict[str, Any]]:
        """Live bids."""
        bids = self._public.book.all_live(now_ms()).bids
        return [{"bid_id": bid.id(self._node.terms.domain), "bid": bid.payload} for bid in bids]

    async def models(self) -> dict[str, Any]:
        """The models on offer, whether each is listed (S8) and, at a committee member, which providers have proven
        that they have them (S42)."""
        proofs = None if self.challenger is None else self.challenger.states()
        ledger, params = self._public.ledger, self._node.terms.params
        day, models = params.day_of(self._node.slot()), self._public.book.models(now_ms())
        listed = {one.model_id: is_payable(ledger.listing, one.model_id, day, params) for one in models}
        return {"models": models, "is_listed": listed, "proofs": proofs}

    async def batch(self, height: int) -> dict[str, Any] | None:
        """One certified batch, and who signed it."""
        batch = await self._node.store.get_batch(height)
        if batch is None:
            return None
        return {
            "height": height,
            "slot": batch.header.slot,
            "day": batch.header.day,
            "batch_hash": batch_hash(batch.header),
            "round": batch.certificate.round,
            "proposer": batch.header.proposer,
            "signers": signers_of(batch.certificate, self._node.terms.domain),
            "members": [member.address for member in self._decided(batch).members],
            "settlements": len(batch.body.settlements),
            "total_credited": batch.header.total_credited,
            "credit_root": batch.header.credit_root,
            "state_root": batch.header.state_root,
        }

    async def certified(self, height: int) -> dict[str, Any] | None:
        """One certified batch as it is gossiped, header, certificate and body."""
        batch = await self._node.store.get_batch(height)
        return None if batch is None else {"height": height, "encoded": encode(batch)}

    async def ticket(self, ticket_id: Digest) -> Any:
        """What became of a ticket."""
        return await self._node.store.outcome(ticket_id)

    async def sessions(self) -> list[dict[str, Any]]:
        """The user's sessions."""
        return [self._with_pick(entry) for entry in self._sessions.all()]

    async def session(self, rfc_id: Digest) -> dict[str, Any] | None:
        """One of the user's sessions, with the match explained from public data."""
        entry = self._sessions.get(rfc_id)
        messages = self._sessions.messages(rfc_id)
        if entry is None or messages is None:
            return entry
        told = await self._told(*messages)
        return self._with_pick(entry) | {"explanation": told["explanation"], "credit": told["credit"]}

    async def explain_rfc(self, rfc_id: Digest) -> dict[str, Any] | None:
        """Why an RFC went to its provider: this user's own, or any other that a router still answers for."""
        messages = self._sessions.messages(rfc_id)
        return await self._explainer.explain(rfc_id) if messages is None else await self._told(*messages)

    async def rfcs(self) -> list[dict[str, Any]]:
        """The RFCs that this node heard last, oldest first: what it may ask about.

        Raises :class:`~node.errors.Unanswerable` where it does not listen.
        """
        if self.demand is None:
            raise Unanswerable("this node hears no RFCs: members do, or it follows them with follow_rfcs = true")
        return self.demand.heard()

    async def _told(self, rfc: Signed[Rfc], matched: Matched) -> dict[str, Any]:
        credit = await self._explain_credit(matched.match.payload.ticket_id, matched.ticket.payload)
        return self._explainer.told(rfc, matched) | {"credit": credit}

    async def _explain_credit(self, ticket_id: Digest, ticket: Ticket) -> tuple[str, ...]:
        """What became of a session's pay; nothing before it was settled."""
        outcome = await self._node.store.outcome(ticket_id)
        if outcome is None:
            return ("credit: not settled yet",)
        if outcome.credited_wei == 0:
            return (f"credit: none, {outcome.reason}",)
        following = await self._node.store.get_batch(outcome.height + 1)
        slot = None if following is None else following.header.slot
        pair = ticket.bid.payload.provider, ticket.session_key
        return explain_credit(self._public.ledger, self._node.terms.params, ticket_id, pair, slot)

    def _with_pick(self, entry: dict[str, Any]) -> dict[str, Any]:
        """A session with its second opinion, while the ledger has one of it."""
        pick = self._public.ledger.audits.pick(Digest(bytes.fromhex(entry["ticket_id"][2:])))
        if pick is None:
            return entry
        scorers = ["0x" + offer.provider.hex() for offer in pick.scorers]
        words = {True: "pass", False: "fail", None: "unread"}
        given = {"0x" + one.scorer.hex(): words[one.passed] for one in pick.given}
        return entry | {"second_opinion": {"scorers": scorers, "given": given, "decision": pick.decision or "open"}}

    async def evidence(self) -> list[dict[str, Any]]:
        """Every offence that this node has evidence of."""
        return self._evidence.report()

    async def claims(self) -> Any:
        """The provider's claims."""
        return await self._node.store.claims()

    async def committee(self) -> dict[str, Any] | None:
        """Stake, height and round of this member, where the others were when they were last heard, and who lied."""
        member, committee = self.member, self._public.committee
        if member is None:
            return None
        drawn = self._public.ledger.drawn
        return member.standing | {
            "address": self._node.address,
            "epoch": committee.epoch,
            "is_member": committee.weight(self._node.address) > 0,
            "drawn": None if drawn is None else [one.address for one in drawn.term.members],
            "stake_wei": committee.weight(self._node.address),
            "total_stake_wei": committee.total,
            "members": [self._standing_of(one.address, one.stake) for one in committee.members],
            "equivocators": self._evidence.equivocators(),
            "key_used_elsewhere": member.lost_to,
            "over_issued": [
                {"router": router, "day": day, "tokens": tokens} for (router, day), tokens in self.over_issued.items()
            ],
        }

    async def listing(self) -> dict[str, Any]:
        """Today's list of models, the ones that are coming and, at a member, the orders that wait (S8)."""
        listing, params = self._public.ledger.listing, self._node.terms.params
        today = params.day_of(self._node.slot())
        return {
            "has_list": params.listed_models,
            "day": today,
            "listed": listing.on(today),
            "coming": {day: sorted(models) for day, models in listing.lists.items() if day > today},
            "orders": None if self.listings is None else self.listings.waiting(),
        }

    async def look_at(self, model_id: Digest) -> dict[str, Any]:
        """Who bids for a model, for a member that is asked to list it. Raises :class:`Unanswerable`."""
        if self.listings is None:
            raise Unanswerable("this node is no committee member: only members list models")
        return await self.listings.look(model_id)

    async def order(self, model_id: Digest, *, is_listed: bool) -> dict[str, Any]:
        """Give this member's order to list a model or not. Raises :class:`Unanswerable`."""
        if self.listings is None:
            raise Unanswerable("this node is no committee member: only members list models")
        return await self.listings.order(model_id, is_listed=is_listed)

    def _standing_of(self, address: Address, stake: int) -> dict[str, Any]:
        heard = None if self.member is None else self.member.others.get(address)
        is_linked = self.link is not None and address in self.link.linked
        known: dict[str, Any] = {"address": address, "stake_wei": stake, "linked": is_linked}
        if heard is not None:
            known |= {"height": heard.height, "round": heard.round, "heard_ms_ago": now_ms() - heard.at_ms}
        return known

    async def signed(self) -> list[dict[str, Any]] | None:
        """What this member signed last: place, digest, when and why."""
        if self.member is None:
            return None
        return [
            {
                "height": record.place.height,
                "round": record.place.round,
                "step": record.place.step,
                "digest": record.digest,
                "signed_ms": record.signed_ms,
                "why": record.why,
            }
            for record in await self.member.history(SIGNED_SHOWN)
        ]

    async def proof(self, height: int, provider: Address) -> ProofFile | None:
        """A provider's cumulative credit at a height, provable to outsiders: ``yellowstone verify`` reads it."""
        batch = await self._node.store.get_batch(height)
        if batch is None:
            return None
        credits = CreditTree.of(await self._node.store.credits(height))
        if credits.root != batch.header.credit_root or provider not in credits:
            return None
        proof = credits.proof(provider)
        credit = CreditProof(provider, Uint256(credits[provider]), proof, batch.header, batch.certificate)
        committee = self._decided(batch)
        return ProofFile.of(credit, committee, self._node.terms.domain, self._hand_overs(committee.epoch))

    def _decided(self, batch: CertifiedBatch) -> Committee:
        return self._public.find_committee(batch.header.committee_root) or self._public.committee

    def _hand_overs(self, epoch: int) -> tuple[HandOverEntry, ...]:
        """How the committee of ``epoch`` came to be, as far back as hand-overs reach without a gap."""
        entries: list[HandOverEntry] = []
        while (certificate := self._public.hand_overs.get(epoch - 1)) is not None:
            epoch -= 1
            outgoing = CommitteeEntry.of(self._public.epochs[epoch].committee)
            entries.insert(0, HandOverEntry(outgoing, certificate.hand_over.day, certificate.signatures))
        return tuple(entries)

    async def hand_overs(self, from_epoch: int) -> list[dict[str, Any]]:
        """What opens the epochs after ``from_epoch`` in the registry: days, members, stakes and signatures."""
        ended = sorted(epoch for epoch in self._public.hand_overs if epoch >= from_epoch)
        return [self._hand_over(epoch, self._public.hand_overs[epoch]) for epoch in ended]

    def _hand_over(self, epoch: int, certificate: HandOverCertificate) -> dict[str, Any]:
        coming = self._public.epochs[epoch + 1]
        return {
            "epoch": epoch,
            "day": certificate.hand_over.day,
            "members": [{"address": one.address, "stake_wei": one.stake} for one in coming.members],
            "signatures": list(certificate.signatures),
        }

    async def explain_day(self, day: int | None) -> dict[str, Any]:
        """How the numbers of any day since genesis come about; for None of the newest one that a batch has opened.

        Raises :class:`Unanswerable` for a day that hasn't begun, or of which no batch tells.
        """
        public = self._public
        today = self._node.terms.params.day_of(self._node.slot())
        wanted = public.ledger.day if day is None else day
        if wanted > today:
            raise Unanswerable(f"day {wanted} has not begun: today is day {today}")
        record = public.history.days.get(wanted)
        if record is None and wanted > public.ledger.day:
            known = f"the newest one that this node has is batch {public.ledger.height} of day {public.ledger.day}"
            raise Unanswerable(f"no batch has opened day {wanted} yet: {known}")
        if record is None:
            raise Unanswerable(f"day {wanted} had no batch, and none came while its tickets could still be settled")
        lines = explain_day(record, self._node.terms, today)
        return {"day": wanted, "height": record.as_of, "explanation": lines}

    async def explain_allowance(self, user: Address) -> dict[str, Any]:
        """How today's allowance of ``user`` comes about.

        Raises :class:`Unanswerable` where the chain is out of reach and the balance isn't known, or where this node
        is days behind.
        """
        today = self._node.terms.params.day_of(self._node.slot())
        try:
            account = account_of(self._public.ledger, self._node.terms, today)
            balance = await self.balances.of(user, account.snapshot_block)
        except MarketError as error:
            raise Unanswerable(f"this node's ledger does not reach to day {today}: {error}") from error
        except ChainError as error:
            block = f"snapshot block {account.snapshot_block} of day {today}"
            raise Unanswerable(f"the balance of 0x{user.hex()} at {block} is not known: {error}") from error
        members = self._public.routers(account.day)
        held = self.allowances
        issued = None if held is None else held.issued_to(user, account.day)
        used = None if held is None else held.used_by(user, account.day)
        holding, is_opened = Holding(user, balance, members, issued, used), today <= self._public.ledger.day
        lines = explain_allowance(account, holding, self._node.terms.params, is_opened=is_opened)
        return {"day": account.day, "balance_wei": balance, "explanation": lines}

    async def explain_earnings(self, provider: Address) -> dict[str, Any]:
        """What a provider has been credited: matured, at stake, immature, and when each comes."""
        ledger = self._public.ledger
        lines = explain_earnings(ledger, self._node.terms.params, provider)
        return {"height": ledger.height, "explanation": lines}

    async def metrics(self) -> str:
        """Prometheus text."""
        ledger = self._public.ledger
        self._gauges["height"].set(ledger.height)
        self._gauges["slot"].set(self._node.slot())
        self._gauges["peers"].set(len(self._node.network.peers()))
        self._gauges["total_credited_mor"].set(ledger.total_credited / 10**18)
        self._gauges["pool"].set(0 if self.member is None else self.member.standing["waiting"])
        self._gauges["link_dropped_frames"].set(0 if self.link is None else self.link.dropped)
        self._gauges["feed_refused"].set(0 if self.feed is None else self.feed.refused)
        self._gauges["feed_throttled"].set(0 if self.feed is None else self.feed.throttled)
        bidders = None if self.feed is None else self.feed.bidders
        self._gauges["feed_poor"].set(0 if bidders is None else bidders.refused)
        self._gauges["rfcs_throttled"].set(0 if self.demand is None else self.demand.throttled)
        for why, held in self._seats_held().items():
            self._seats.labels(why=why).set(held)
        return generate_latest(self._metrics).decode()
