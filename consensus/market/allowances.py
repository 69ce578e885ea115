"""What a home router knows of users' allowances: the passes of a day, and what is reserved and spent of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consensus.market import access
from consensus.market.day_account import DayAccount
from consensus.market.doubles import Issuance
from consensus.market.errors import PassRefused, RfcRefused
from consensus.market.promises import Promises
from contracts.typed_data import Address, Digest
from gossip.messages.market import AccessPass, PassEnd, PassIssued, PassRequest, Rfc

RoutersOf = Callable[[int], Sequence[Address]]
"""The home routers of a day, as the ledger has them."""

MAX_SESSIONS = 100_000
"""Session keys with a pass that a router keeps count of."""

MAX_PASSES_PER_USER = 64
"""Passes that a user may have on a day, at all routers together."""

MAX_SKEW_MS = 300_000
"""How far a pass request's clock may be from the router's."""


@dataclass(slots=True)
class _Session:
    access_pass: AccessPass
    user: Address
    reserved: int = 0
    spent: int = 0
    next_index: int = 0

    @property
    def left(self) -> int:
        return self.access_pass.allowance - self.reserved - self.spent


class Allowances:
    """Passes issued by this router and, as far as their users' sums go, by the others."""

    def __init__(self, router: Address, routers: RoutersOf, promises: Promises) -> None:
        self._router = router
        self._promises = promises
        self._routers = routers
        self._sessions: dict[Address, _Session] = {}
        self._issued: dict[tuple[int, Address], dict[Address, int]] = {}
        """(day, user) to session key to T of allowance, whoever issued it."""
        self._issuance = Issuance()
        self._ended: dict[Address, int] = {}
        """Session keys whose passes have ended before their day, and that day."""
        self._passes: dict[Address, tuple[int, Address, Address]] = {}
        """Session key to day, user and issuer, whoever issued it."""
        self._told: dict[Address, int] = {}
        """T used of other routers' passes, as those told while they could."""
        self._cut: dict[Address, int] = {}
        """T that count of passes which ended: the rest was given anew by another router."""

    def grant(
        self,
        request: PassRequest,
        *,
        balance_wei: int,
        account: DayAccount,
        salt: Digest,
        now_ms: int,
        accept_rank: int = 0,
        gone: frozenset[Address] = frozenset(),
    ) -> AccessPass:
        """The pass for a request, to be signed by this router; the same request gets the same pass again.

        ``balance_wei`` is the user's at the day's snapshot block, ``account`` the day's numbers, ``accept_rank`` how
        far down the user's ranking this router may stand (above 0 only while those before it are unreachable). Passes
        of routers that are ``gone`` count with what was used of them: :meth:`ends_of` names them, and they end.
        Raises :class:`PassRefused` with wrong_day, expired, wrong_router, no_balance, index_used (the session key
        has a pass), token_max_over_allowance (more than is left of UserMax) or busy.
        """
        user, day, key = request.user, request.day, request.session_key
        self._check_request(request, account, now_ms, accept_rank)
        priority = access.priority(balance_wei)
        issued = self._issued.get((day, user), {})
        if (held := self._sessions.get(key)) is not None:
            if key in issued and held.access_pass.day == day:
                return held.access_pass
            raise PassRefused("index_used", f"session key 0x{key.hex()} has a pass already")
        if key in issued:
            raise PassRefused("wrong_router", f"session key 0x{key.hex()} has a pass of another router")
        counted = issued | {end.session_key: end.used for end in self.ends_of(user, day, gone)}
        left = access.user_max(account.max_t, account.supply_wei, balance_wei) - sum(counted.values())
        allowance = access.round_allowance(min(request.tokens or left, left, access.MAX_ALLOWANCE))
        if allowance <= 0 or request.tokens > left:
            asked = f"{request.tokens} were asked for" if request.tokens else "the rest of it was asked for"
            raise PassRefused("token_max_over_allowance", f"{max(0, left)} T are left of UserMax, {asked}")
        if len(self._sessions) >= MAX_SESSIONS or len(issued) >= MAX_PASSES_PER_USER:
            raise PassRefused("busy", f"{len(issued)} passes for this user today, {len(self._sessions)} in all")
        commitment = access.pass_commitment(user, salt)
        granted = AccessPass(key, day, allowance, priority, self._router, commitment)
        self._sessions[key] = _Session(granted, user)
        for end in self.ends_of(user, day, gone):
            self._end(end)
        self._issued.setdefault((day, user), {})[key] = allowance
        self._passes[key] = day, user, self._router
        self._promises.issue(day, allowance)
        return granted

    # Routers that are gone, and what becomes of the passes that they issued.

    def note_usage(self, issuer: Address, session_key: Address, used: int) -> None:
        """A router says what is used of a pass that it issued; of anybody else's it has no say."""
        held = self._passes.get(session_key)
        if held is not None and held[2] == issuer != self._router:
            self._told[session_key] = used

    def ends_of(self, user: Address, day: int, gone: frozenset[Address]) -> tuple[PassEnd, ...]:
        """The user's passes by routers that are ``gone`` which have told what was used of them, and have not ended."""
        return tuple(
            PassEnd(key, min(self._told[key], allowance))
            for key, allowance in sorted(self._issued.get((day, user), {}).items())
            if key in self._told and key not in self._cut and self._passes[key][2] in gone
        )

    def _end(self, end: PassEnd) -> None:
        """A pass counts with what was used of it from now on; where this router issued it, it serves nobody more.

        What this router itself knows to be used counts, where that is more.
        """
        held = self._passes.get(end.session_key)
        if held is None or end.session_key in self._cut:
            return
        day, user, _ = held
        session = self._sessions.get(end.session_key)
        used = max(end.used, 0 if session is None else session.reserved + session.spent)
        issued = self._issued[day, user]
        used = min(used, issued[end.session_key])
        if session is not None:
            self._promises.issue(day, used - issued[end.session_key])
            self._ended[end.session_key] = day
        self._cut[end.session_key] = used
        issued[end.session_key] = used

    def note_settled(self, session_key: Address, used: int) -> None:
        """What batches have settled of another router's pass counts, where its router told of less."""
        if session_key in self._told:
            self._told[session_key] = max(used, self._told[session_key])

    def issuer_of(self, session_key: Address) -> Address | None:
        """Who issued a pass of these days."""
        held = self._passes.get(session_key)
        return None if held is None else held[2]

    def own_keys(self) -> tuple[Address, ...]:
        """The session keys that this router has issued passes to."""
        return tuple(self._sessions)

    def is_before(self, router: Address, other: Address, user: Address, day: int) -> bool:
        """Whether ``router`` stands before ``other`` in a user's ranking."""
        ranking = access.home_routers(user, day, self._routers(day))
        return router in ranking and other in ranking and ranking.index(router) < ranking.index(other)

    def successors(self, session_key: Address, count: int) -> tuple[Address, ...]:
        """Who would take over from this router for a pass's user, nearest first."""
        held = self._passes.get(session_key)
        if held is None:
            return ()
        day, user, _ = held
        ranking = access.home_routers(user, day, self._routers(day))
        place = ranking.index(self._router) + 1 if self._router in ranking else len(ranking)
        return ranking[place : place + count]

    def _check_request(self, request: PassRequest, account: DayAccount, now_ms: int, accept_rank: int) -> None:
        if request.day != account.day:
            raise PassRefused("wrong_day", f"today is day {account.day}, day {request.day} was asked for")
        if abs(now_ms - request.sent_ms) > MAX_SKEW_MS:
            raise PassRefused("expired", f"sent at {request.sent_ms} ms, it is {now_ms} ms")
        ranking = access.home_routers(request.user, request.day, self._routers(request.day))
        if self._router not in ranking[: accept_rank + 1]:
            raise PassRefused("wrong_router", f"today's home router is 0x{ranking[0].hex()}")

    def note_issued(self, issued: PassIssued, *, used: int = 0, next_index: int = 0) -> int:
        """Take note of a pass whose signatures hold, another member's or, after a restart, this router's own.

        ``used`` and ``next_index`` matter for own passes only. Returns the T issued to the user on that day by all
        routers together; what one router may not exceed is told by :meth:`issued_by`. Raises
        :class:`PassRefused` where the parts do not belong together.
        """
        access_pass, request = issued.access_pass.payload, issued.request.payload
        if issued.issuer not in self._routers(access_pass.day) or access_pass.issuer != issued.issuer:
            raise PassRefused("wrong_router", f"0x{issued.issuer.hex()} is not the issuer of the pass, or no member")
        if access_pass.commitment != access.pass_commitment(request.user, issued.salt):
            raise PassRefused("no_balance", "the commitment does not open to the user of the request")
        if (access_pass.session_key, access_pass.day) != (request.session_key, request.day):
            raise PassRefused("wrong_day", "pass and request differ in session key or day")
        of_user = self._issued.setdefault((access_pass.day, request.user), {})
        self._passes.setdefault(access_pass.session_key, (access_pass.day, request.user, issued.issuer))
        if access_pass.session_key not in self._cut:
            of_user[access_pass.session_key] = max(access_pass.allowance, of_user.get(access_pass.session_key, 0))
        self._issuance.note(issued)
        if issued.issuer == self._router and access_pass.session_key not in self._sessions:
            self._sessions[access_pass.session_key] = _Session(access_pass, request.user, 0, used, next_index)
            self._promises.issue(access_pass.day, access_pass.allowance)
        for end in issued.ends:
            ended = self._passes.get(end.session_key)
            if (
                ended is not None
                and ended[:2] == (access_pass.day, request.user)
                and self.is_before(ended[2], issued.issuer, request.user, access_pass.day)
            ):
                self._end(end)
        return sum(of_user.values())

    def reserve(self, rfc: Rfc) -> None:
        """Set ``token_max`` aside. Raises :class:`RfcRefused` and then changes nothing (S36).

        Of what is short, T used are gone for the day (token_max_over_allowance), T held for RFCs that have not ended
        may come back (allowance_held).
        """
        session = self._sessions.get(rfc.session_key)
        if session is None or session.access_pass != rfc.access_pass.payload:
            raise RfcRefused("wrong_router", "the pass is not one that this router has issued")
        self.check_standing(rfc.session_key)
        if rfc.index < session.next_index:
            detail = f"index {rfc.index} is below {session.next_index}, the lowest unused one"
            raise RfcRefused("index_used", detail, session.left)
        if not 0 < rfc.token_max <= session.left:
            detail = f"TokenMax is {rfc.token_max} T, {session.left} T are left"
            if not 0 < rfc.token_max <= session.left + session.reserved:
                raise RfcRefused("token_max_over_allowance", detail, session.left)
            raise RfcRefused("allowance_held", f"{detail}, {session.reserved} T are held for other RFCs", session.left)
        session.reserved += rfc.token_max
        session.next_index = rfc.index + 1

    def check_standing(self, session_key: Address) -> None:
        """Raise :class:`RfcRefused` (index_used) where a session key's pass has ended before its day."""
        if session_key in self._ended:
            why = "another router gave its rest anew" if session_key in self._cut else "an index was used twice"
            raise RfcRefused("index_used", f"{why}: its pass has ended", 0)

    def end(self, session_key: Address, day: int) -> None:
        """The session key used one index twice: its pass of ``day`` is worth nothing any more."""
        self._ended[session_key] = day

    def issued_by(self, issuer: Address, user: Address, day: int) -> int:
        """T that another router has issued to a user on a day, as far as its messages say."""
        return self._issuance.total(issuer, user, day)

    def restore(self, rfc: Rfc, reserved: int) -> None:
        """After a restart: an RFC had been admitted, and ``reserved`` T are still set aside for it."""
        session = self._sessions.get(rfc.session_key)
        if session is not None:
            session.reserved += reserved
            session.next_index = max(session.next_index, rfc.index + 1)

    def release(self, session_key: Address, token_max: int, spent: int) -> None:
        """Give a reservation back, less what was ``spent`` of it (T)."""
        session = self._sessions.get(session_key)
        if session is not None:
            session.reserved -= token_max
            session.spent += spent

    def user_of(self, session_key: Address) -> Address | None:
        """Whose a pass is that this router has issued."""
        session = self._sessions.get(session_key)
        return None if session is None else session.user

    def left(self, session_key: Address) -> int:
        """T of a pass that are neither reserved nor spent; 0 for an unknown one."""
        session = self._sessions.get(session_key)
        return 0 if session is None else session.left

    def used(self, session_key: Address) -> int:
        """T of a pass that are reserved or spent."""
        session = self._sessions.get(session_key)
        return 0 if session is None else session.reserved + session.spent

    def used_by(self, user: Address, day: int) -> int:
        """T reserved or spent of the passes that this router issued to a user on a day."""
        return sum(self.used(session_key) for session_key in self._issued.get((day, user), {}))

    def next_index(self, session_key: Address) -> int:
        """The lowest RFC index that has not been used yet."""
        session = self._sessions.get(session_key)
        return 0 if session is None else session.next_index

    def issued_to(self, user: Address, day: int) -> int:
        """T issued to a user on a day, by all routers together."""
        return sum(self._issued.get((day, user), {}).values())

    def over_issued(self, user: Address, account: DayAccount, balance_wei: int) -> int:
        """T that a user's passes of the account's day exceed its UserMax by; above 0 is provable fraud by an issuer.

        ``balance_wei`` is the user's at the day's snapshot block. Every pass that made up the sum is signed by its
        issuer, and so is the request by the user.
        """
        most = access.user_max(account.max_t, account.supply_wei, balance_wei)
        return max(0, self.issued_to(user, account.day) - most)

    def forget_before(self, day: int) -> None:
        """Drop the passes of earlier days; unused access does not accrue (S40)."""
        self._promises.forget_before(day)
        self._sessions = {key: held for key, held in self._sessions.items() if held.access_pass.day >= day}
        self._issued = {key: held for key, held in self._issued.items() if key[0] >= day}
        self._ended = {key: ended for key, ended in self._ended.items() if ended >= day}
        self._issuance.forget_before(day)
        self._passes = {key: held for key, held in self._passes.items() if held[0] >= day}
        self._told = {key: used for key, used in self._told.items() if key in self._passes}
        self._cut = {key: used for key, used in self._cut.items() if key in self._passes}
