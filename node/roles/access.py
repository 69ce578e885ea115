"""The user's side of access: session keys, passes, RFC indexes, and asking a home router (S25, S36).

Session keys are derived from the MOR key, the day and a counter, so that a restarted agent finds its passes again.
"""

import hashlib
import secrets as randomness
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from consensus.market.access import home_routers, user_max
from consensus.market.day_account import DayAccount
from consensus.market.errors import MarketError
from consensus.market.ledger_state import account_of
from contracts.errors import ChainError
from contracts.signing import Key
from contracts.typed_data import Address
from gossip.errors import GossipError, MalformedMessage, TransportError
from gossip.messages import Signed, encode, sign
from gossip.messages.market import AccessPass, PassRequest
from gossip.messages.router import Granted, PassAsk, Queued, Refused, RouterAnswer, RouterAsk, decode_router_answer
from gossip.streams import FrameStream
from gossip.topics import ROUTER
from node.api.backend import RateLimit
from node.context import Node, now_ms
from node.roles.evidence import EvidencePool
from node.roles.public import PublicState

MIN_PASS_T = 1 << 15
"""T asked for at once, at least: fewer passes, and one pass says little about its user."""

MAX_KEYS = 64
"""Session keys of a day at most."""

KEY_IS_TAKEN = frozenset({"index_used", "wrong_router"})
"""Refusals of a pass after which another session key helps: an earlier run got one for it from another router."""

NOTHING_TO_GRANT = frozenset({"token_max_over_allowance", "allowance_used"})
"""Refusals of a pass after which only what the passes at hand hold is left of the day."""

BALANCE_EVERY_S = 2.0
"""How often is looked whether a new day's snapshot is known."""

ASK_S = 5.0
"""How long a home router has for a pass before the next in rank is asked."""


class AccessRefused(Exception):
    """A router refused; ``code`` and ``detail`` are its words, ``allowance_left`` is in T."""

    def __init__(self, code: str, detail: str, allowance_left: int) -> None:
        self.code = code
        self.detail = detail
        self.allowance_left = allowance_left
        self.queued: Queued | None = None
        """Where the RFC stood in its router's queue when it was last told."""
        super().__init__(f"{code}: {detail}")


class AllowanceHeld(AccessRefused):
    """The passes would do but for T that are held for answers which have not ended; ``freed`` is set once some are."""

    def __init__(self, detail: str, allowance_left: int, freed: trio.Event) -> None:
        self.freed = freed
        super().__init__("allowance_held", detail, allowance_left)


class _NobodyAsked(TransportError):
    """Every router asked so far has answered."""


@dataclass(slots=True)
class Wallet:
    """One session key with its pass and what is left of it."""

    key: Key
    granted: Signed[AccessPass]
    left: int
    """T neither used nor held."""
    next_index: int
    held: int = 0
    """T set aside for RFCs whose answers have not ended: what these don't use comes back."""


@dataclass(slots=True)
class _Day:
    number: int
    wallets: list[Wallet] = field(default_factory=list)
    discarded: list[Wallet] = field(default_factory=list)
    """What was used of them is used, and what is held may still come back."""
    keys_used: int = 0
    full_with: tuple[Address, ...] = ()
    """Session keys with passes beside which nothing of UserMax was left for another."""


INDEX_BITS = 20
"""Random bits of the RFC index that a wallet begins with, below the Unix ms in which it was opened. A later run of an
agent can't know which index an earlier one gossiped last, and one index twice is fraud to everybody else; by the clock
it begins above them. Each wallet draws its own: two that counted from one number would show that they are one user's
(S34). Two agents that share a MOR key get in one another's way without ending one another's passes."""


def session_key_of(mor_key: Key, network: bytes, day: int, counter: int) -> Key:
    """A user's session key of a day: nobody without the MOR key can tell that two of them belong together."""
    seed = b"yellowstone session" + mor_key.reveal() + day.to_bytes(8, "big") + counter.to_bytes(8, "big")
    return Key(hashlib.sha256(network + seed).digest())


def first_index(now_ms: int) -> int:
    """Where a wallet opened now begins to count its RFCs."""
    return now_ms << INDEX_BITS | randomness.randbits(INDEX_BITS)


class Access:
    """Keeps a usable pass at hand."""

    def __init__(self, node: Node, public: PublicState, evidence: EvidencePool) -> None:
        self._node = node
        self._public = public
        self._evidence = evidence
        self._lock = trio.Lock()
        self._day = _Day(-1)
        self._balance: tuple[int, int] | None = None
        self._freed = trio.Event()

    def day(self) -> int:
        """Today."""
        return self._node.terms.params.day_of(self._node.slot())

    def reset_s(self) -> int:
        """Seconds until the next day, at least 1."""
        params = self._node.terms.params
        return max(1, -(-self._node.ms_until((self.day() + 1) * params.day_slots) // 1_000))

    def used(self) -> int:
        """T used or reserved today, of the passes that this run of the agent has seen."""
        if self._day.number != self.day():
            return 0
        return sum(one.granted.payload.allowance - one.left for one in self._day.wallets + self._day.discarded)

    def user_max(self) -> int | None:
        """UserMax in T at the day's snapshot (S38); None while the balance there is not known."""
        account = self._account()
        if account is None or self._balance is None or self._balance[0] != account.snapshot_block:
            return None
        return user_max(account.max_t, account.supply_wei, self._balance[1])

    def limit(self) -> RateLimit | None:
        """What is left of UserMax today; None while it is not known."""
        most = self.user_max()
        return None if most is None else RateLimit(most, max(0, most - self.used()), self.reset_s())

    async def follow_balance(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read the own balance at every snapshot, for ever; returns at once without a chain."""
        task_status.started()
        if self._node.chain is None:
            return
        while True:
            account = self._account()
            if account is not None and (self._balance is None or self._balance[0] != account.snapshot_block):
                block = account.snapshot_block
                try:
                    self._balance = block, await self._node.chain.balance(self._node.address, block)
                except ChainError as error:
                    self._node.log.info("own balance is not known yet", reason=str(error))
            await trio.sleep(BALANCE_EVERY_S)

    def _account(self) -> DayAccount | None:
        try:
            return account_of(self._public.ledger, self._node.terms, self.day())
        except MarketError:  # this node's ledger does not reach to today yet
            return None

    async def reserve(self, tokens: int) -> tuple[Wallet, int]:
        """A wallet for an RFC of ``tokens`` T and the index to use. Raises :class:`AccessRefused`, GossipError.

        Where the rest of UserMax can't hold ``tokens`` a wallet is given all the same: it is the router that refuses
        (S36). Where a wallet could that is held for others at the moment, :class:`AllowanceHeld` is raised.
        :meth:`give_back` follows once for every wallet given.
        """
        async with self._lock:
            day = self._node.terms.params.day_of(self._node.slot())
            if day != self._day.number:
                self._day = _Day(day)
            wallet = self._with_free(tokens) or await self._further(day, tokens)
            index = wallet.next_index
            wallet.next_index += 1
            wallet.left -= tokens
            wallet.held += tokens
            return wallet, index

    def give_back(self, wallet: Wallet, reserved: int, used: int) -> None:
        """An RFC has ended that ``reserved`` T were held for, of which ``used`` are used up."""
        wallet.held -= reserved
        wallet.left += reserved - used
        self._note_freed()

    def _note_freed(self) -> None:
        self._freed.set()
        self._freed = trio.Event()

    async def _further(self, day: int, tokens: int) -> Wallet:
        """A wallet with a further pass, where none at hand has ``tokens`` free; what is held comes after that."""
        granted: Wallet | None = None
        at_hand = tuple(one.key.address for one in self._good())
        if not at_hand or self._day.full_with != at_hand:
            try:
                granted = await self._grant(day, tokens)
            except AccessRefused as error:
                if error.code not in NOTHING_TO_GRANT or not at_hand:
                    raise
                self._day.full_with = at_hand
            else:
                self._day.wallets.append(granted)
        if (wallet := self._with_free(tokens)) is not None:  # others may have ended meanwhile
            return wallet
        free = max((one.left for one in self._good()), default=0)
        if held := self._held_of(tokens):
            detail = f"{tokens} T were asked for, {held} T of the passes are held for answers that have not ended"
            raise AllowanceHeld(detail, free, self._freed)
        if granted is not None:
            return granted
        detail = f"{tokens} T were asked for, all of UserMax is on passes, and none has so much left"
        raise AccessRefused("token_max_over_allowance", detail, free)

    def _with_free(self, tokens: int) -> Wallet | None:
        return next((one for one in self._good() if one.left >= tokens), None)

    def _held_of(self, tokens: int) -> int:
        """T held of the passes that would do for ``tokens`` if all of that came back."""
        return sum(one.held for one in self._good() if one.left + one.held >= tokens)

    def _good(self) -> list[Wallet]:
        return [one for one in self._day.wallets if self._is_good(one)]

    def discard(self, wallet: Wallet) -> None:
        """Forget a pass whose router is gone or disagrees; the next RFC asks for another."""
        if wallet in self._day.wallets:
            self._day.wallets.remove(wallet)
            self._day.discarded.append(wallet)
            self._note_freed()

    async def _grant(self, day: int, tokens: int) -> Wallet:
        wanted = 1 << (max(tokens, MIN_PASS_T) - 1).bit_length()
        while self._day.keys_used < MAX_KEYS:
            key = self._session_key(day, self._day.keys_used)
            try:
                granted = await self._ask_in_rank(day, key, wanted)
            except AccessRefused as refused:
                # Less than a whole step is left of UserMax: take that, and let the router judge the RFC.
                if refused.code == "token_max_over_allowance" and wanted:
                    wanted = 0
                    continue
                if refused.code not in KEY_IS_TAKEN:
                    raise
                self._day.keys_used += 1
                continue
            self._day.keys_used += 1
            left = granted.access_pass.payload.allowance - granted.used
            # A pass that an earlier run of this agent used up is passed over.
            if granted.used == 0 or left >= tokens:
                first = max(granted.next_index, first_index(now_ms()))
                return Wallet(key, granted.access_pass, left, first)
        raise AccessRefused("allowance_used", f"{MAX_KEYS} passes were used up today", 0)

    def _is_good(self, wallet: Wallet) -> bool:
        """Providers refuse the tickets of a router that was caught issuing twice."""
        granted = wallet.granted.payload
        return not self._evidence.has_issued_twice(granted.issuer, granted.day)

    def _session_key(self, day: int, counter: int) -> Key:
        return session_key_of(self._node.key, self._node.terms.domain.separator(), day, counter)

    async def _ask_in_rank(self, day: int, key: Key, wanted: int) -> Granted:
        """Ask the home router; the next in rank takes over after a deadline."""
        request = PassRequest(self._node.address, key.address, day, wanted, now_ms())
        ask = PassAsk(sign(request, self._node.key, self._node.terms.domain))
        failure: GossipError = _NobodyAsked("no router is known yet")
        for router in home_routers(self._node.address, day, self._public.routers(day)):
            if self._evidence.has_issued_twice(router, day):
                failure = TransportError(f"router 0x{router.hex()} gave one session key two passes")
                continue
            try:
                answer = await ask_router(self._node, self._public, router, ask, timeout=ASK_S)
            except GossipError as error:
                self._node.log.info("router does not answer", router=router.hex(), reason=str(error))
                failure = error
                continue
            except AccessRefused as refused:
                if refused.code == "no_quorum":  # it has lost the others, or has just come back
                    failure = TransportError(f"router 0x{router.hex()}: {refused.detail}")
                    continue
                # The next in rank may not have noticed yet that those before it are gone.
                if refused.code != "wrong_router" or isinstance(failure, _NobodyAsked):
                    raise
                continue
            if not isinstance(answer, Granted):
                raise MalformedMessage("Granted", f"router answered with {type(answer).__name__}")
            self._check_pass(answer.access_pass, router, key)
            return answer
        raise failure

    def _check_pass(self, access_pass: Signed[AccessPass], router: Address, key: Key) -> None:
        if access_pass.signer(self._node.terms.domain) != router or access_pass.payload.session_key != key.address:
            raise MalformedMessage("AccessPass", "not for this session key, or not by the router that was asked")


async def ask_router(
    node: Node, public: PublicState, router: Address, ask: RouterAsk, *, timeout: float
) -> RouterAnswer:
    """One question to one router. Raises :class:`AccessRefused` with its signed refusal, or GossipError."""
    stream = await send_ask(node, public, router, ask, timeout=timeout)
    return await take_answer(node, router, stream, timeout=timeout)


async def send_ask(node: Node, public: PublicState, router: Address, ask: RouterAsk, *, timeout: float) -> FrameStream:
    """Put a question to a router; :func:`take_answer` reads on. Raises GossipError."""
    record = public.book.record(router, now_ms())
    if record is None:
        raise TransportError(f"no node record of router 0x{router.hex()}")
    if not node.network.is_connected(record.payload.peer_id):
        await node.network.connect(record.payload.multiaddrs, timeout=timeout)
    stream = await node.network.open_stream(record.payload.peer_id, ROUTER, timeout=timeout)
    try:
        await stream.send(encode(ask))
    except GossipError:
        await stream.aclose()
        raise
    return stream


async def take_answer(
    node: Node,
    router: Address,
    stream: FrameStream,
    *,
    timeout: float,
    on_queued: Callable[[Queued], None] = lambda _: None,
) -> RouterAnswer:
    """The answer on a stream, which is closed. Raises as :func:`ask_router`.

    ``on_queued`` hears where an RFC stands in the queue while it waits.
    """
    ends = trio.current_time() + timeout
    try:
        while True:
            data = await stream.receive(limit=131_072, timeout=max(0.0, ends - trio.current_time()))
            answer = decode_router_answer(data or b"")
            if not isinstance(answer, Queued):
                break
            on_queued(answer)
    finally:
        await stream.aclose()
    if isinstance(answer, Refused):
        if answer.refusal.signer(node.terms.domain) != router:
            raise MalformedMessage("Refusal", "not signed by the router that was asked")
        refusal = answer.refusal.payload
        raise AccessRefused(refusal.code, refusal.detail, refusal.allowance_left)
    return answer
