"""What a home router knows of users' allowances: the passes of a day, and what is reserved and spent of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consensus.market import access
from consensus.market.doubles import Issuance
from consensus.market.errors import PassRefused, RfcRefused
from consensus.market.ledger_state import DayAccount
from consensus.market.promises import Promises
from contracts.typed_data import Address, Digest
from gossip.messages.market import AccessPass, PassIssued, PassRequest, Rfc

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

    def grant(
        self,
        request: PassRequest,
        *,
        balance_wei: int,
        account: DayAccount,
        salt: Digest,
        now_ms: int,
        accept_rank: int = 0,
    ) -> AccessPass:
        """The pass for a request, to be signed by this router; the same request gets the same pass again.

        ``balance_wei`` is the user's at the day's snapshot block, ``account`` the day's numbers, ``accept_rank`` how
        far down the user's ranking this router may stand (above 0 only while those before it are unreachable).
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
        left = access.user_max(account.max_t, account.supply_wei, balance_wei) - sum(issued.values())
        allowance = access.round_allowance(min(request.tokens or left, left, access.MAX_ALLOWANCE))
        if allowance <= 0 or request.tokens > left:
            raise PassRefused(
                "token_max_over_allowance", f"{max(0, left)} T are left of UserMax, {request.tokens} asked"
            )
        if len(self._sessions) >= MAX_SESSIONS or len(issued) >= MAX_PASSES_PER_USER:
            raise PassRefused("busy", f"{len(issued)} passes for this user today, {len(self._sessions)} in all")
        commitment = access.pass_commitment(user, salt)
        granted = AccessPass(key, day, allowance, priority, self._router, commitment)
        self._sessions[key] = _Session(granted, user)
        self._issued.setdefault((day, user), {})[key] = allowance
        self._promises.issue(day, allowance)
        return granted

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
        of_user[access_pass.session_key] = max(access_pass.allowance, of_user.get(access_pass.session_key, 0))
        self._issuance.note(issued)
        if issued.issuer == self._router and access_pass.session_key not in self._sessions:
            self._sessions[access_pass.session_key] = _Session(access_pass, request.user, 0, used, next_index)
            self._promises.issue(access_pass.day, access_pass.allowance)
        return sum(of_user.values())

    def reserve(self, rfc: Rfc) -> None:
        """Set ``token_max`` aside. Raises :class:`RfcRefused` and then changes nothing (S36)."""
        session = self._sessions.get(rfc.session_key)
        if session is None or session.access_pass != rfc.access_pass.payload:
            raise RfcRefused("wrong_router", "the pass is not one that this router has issued")
        if rfc.session_key in self._ended:
            raise RfcRefused("index_used", "the session key has used an index twice: its pass has ended", 0)
        if rfc.index < session.next_index:
            detail = f"index {rfc.index} is below {session.next_index}, the lowest unused one"
            raise RfcRefused("index_used", detail, session.left)
        if not 0 < rfc.token_max <= session.left:
            detail = f"TokenMax is {rfc.token_max} T, {session.left} T are left"
            raise RfcRefused("token_max_over_allowance", detail, session.left)
        session.reserved += rfc.token_max
        session.next_index = rfc.index + 1

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
