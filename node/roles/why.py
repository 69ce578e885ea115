"""Why an RFC went where it went, for anybody: the router's signed account, derived again from what this node holds.

A router answers for every RFC that it has matched, to whoever asks: bids, RFCs and tickets are public anyway, and
nothing in them names a user (S34). A provider learns from it why it lost.
"""

from typing import Any

from consensus.market.book import StandingBid
from consensus.market.explain import explain_match, explain_part
from consensus.market.matching import MatchContext
from consensus.market.omissions import hidden_bids
from contracts.typed_data import Address, Digest
from gossip.errors import GossipError, MalformedMessage
from gossip.messages import Signed
from gossip.messages.market import Match, Rfc
from gossip.messages.router import Account, MatchAsk, Matched
from node.context import Node, now_ms
from node.roles.access import AccessRefused, ask_router
from node.roles.public import PublicState

ASK_S = 5.0
"""How long a router has to account for a match."""


class Explainer:
    """Asks routers, and holds their accounts against this node's book, ledger and beacons."""

    def __init__(self, node: Node, public: PublicState) -> None:
        self._node = node
        self._public = public

    async def explain(self, rfc_id: Digest) -> dict[str, Any] | None:
        """What became of an RFC, in lines of text; None where no router in reach knows it."""
        refusals: list[str] = []
        for router in self._public.recent_members():
            if router == self._node.address and "member" not in self._node.config.roles:
                continue
            try:
                account = await self._account_of(router, rfc_id)
            except AccessRefused as refused:
                if refused.code != "unknown_rfc":
                    refusals.append(f"router 0x{router.hex()} did not match it: {refused}")
                continue
            except GossipError as error:
                self._node.log.info("router does not answer", router=router.hex(), reason=str(error))
                continue
            return self.told(account.rfc, account.matched)
        return {"rfc_id": rfc_id, "explanation": tuple(refusals)} if refusals else None

    async def _account_of(self, router: Address, rfc_id: Digest) -> Account:
        answer = await ask_router(self._node, self._public, router, MatchAsk(rfc_id), timeout=ASK_S)
        if not isinstance(answer, Account):
            raise MalformedMessage("Account", f"router answered with {type(answer).__name__}")
        if answer.rfc.id(self._node.terms.domain) != rfc_id:
            raise MalformedMessage("Account", "of another RFC than was asked for")
        return answer

    def told(self, rfc: Signed[Rfc], matched: Matched) -> dict[str, Any]:
        """A match explained, checked, compared with this node's own book, and what it means for this node's own bid."""
        match, ticket = matched.match, matched.ticket
        context = self.context_of(match.payload)
        secret = self._secret_of(match.payload)
        lines = list(explain_match(match, ticket, rfc, secret, context))
        hidden = self.hidden(match.payload, rfc.payload, context)
        for standing in hidden:
            bid = standing.bid
            lines.append(
                f"HIDDEN: 0x{bid.provider.hex()} bid {bid.price_wei} wei per T in time, as this node heard it, and is"
                " neither among the candidates nor accounted for"
            )
        if "provider" in self._node.config.roles:
            own = self._public.bids.of_provider(self._node.address, rfc.payload.model_id, match.payload.slot)
            lines += explain_part(
                match.payload, ticket, rfc.payload, provider=self._node.address, own=own, context=context
            )
        return {
            "rfc_id": match.payload.rfc_id,
            "router": match.payload.router,
            "slot": match.payload.slot,
            "winner": ticket.payload.bid.payload.provider,
            "revealed": secret is not None,
            "hidden": [standing.bid.provider for standing in hidden],
            "explanation": tuple(lines),
        }

    def context_of(self, told: Match) -> MatchContext:
        """The public data that a match is checked against."""
        day = self._node.terms.params.day_of(told.slot)
        ledger = self._public.ledger
        account = ledger.days.get(day, ledger.account)
        return MatchContext(
            terms=self._node.terms,
            committee=ledger.routers(day),
            tip=ledger.commitments.get(day, {}).get(told.router),
            ceiling_wei=account.ceiling_wei(self._node.terms.params),
            beacons=self._public.beacons,
            listing=ledger.listing,
        )

    def hidden(self, match: Match, rfc: Rfc, context: MatchContext) -> tuple[StandingBid, ...]:
        """Bids that this node had heard in time, that others could see too, and that the draw should have had."""
        known = self._public.bids.known_by(rfc.model_id, match.slot)
        return hidden_bids(match, rfc, [one for one in known if self._is_shown(one)], context)

    def _is_shown(self, standing: StandingBid) -> bool:
        """Whether its provider has a record and a model proof, without which no router may match it (S42)."""
        book, seat = self._public.book, (standing.bid.provider, standing.bid.model_id)
        return book.record(seat[0], now_ms()) is not None and seat in book.offers(now_ms())

    def _secret_of(self, told: Match) -> Digest | None:
        reveal = self._public.reveals.get((told.router, told.slot))
        return None if reveal is None else reveal.payload.secret
