"""RFCs whose client left before they had an answer: taken back at their router, so that they fill nobody's slot."""

from collections.abc import Callable
from dataclasses import dataclass

import trio

from gossip.errors import GossipError
from gossip.messages import Signed, sign
from gossip.messages.market import Rfc, Withdrawal
from gossip.messages.router import Matched, WithdrawAsk, Withdrawn
from node.context import Node, now_ms
from node.roles.access import Access, AccessRefused, Wallet, ask_router
from node.roles.public import PublicState

RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)

ASK_S = 5.0
"""How long a router has for its answer."""

QUEUED = 1_024
"""Withdrawals that wait to be sent."""


@dataclass(frozen=True, slots=True)
class _Left:
    rfc: Signed[Rfc]
    wallet: Wallet
    held: int
    """T of the wallet that are not given back before the router has said what the withdrawal costs."""


class Withdrawing:
    """Owns one user's withdrawals; ``check`` looks at a match that came first, and ``abandon`` reports its ticket."""

    def __init__(
        self,
        node: Node,
        public: PublicState,
        access: Access,
        *,
        check: Callable[[Signed[Rfc], Matched], None],
        abandon: Callable[[Matched, Wallet], None],
    ) -> None:
        self._node = node
        self._public = public
        self._access = access
        self._check = check
        self._abandon = abandon
        self._left_in, self._left_out = trio.open_memory_channel[_Left](QUEUED)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take RFCs back for ever."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            async for left in self._left_out:
                nursery.start_soon(self._withdraw, left)

    def leave(self, rfc: Signed[Rfc], wallet: Wallet) -> None:
        """Have an RFC taken back that may have reached its router, and give the wallet its T back."""
        token_max = rfc.payload.token_max
        held = min(token_max, self._node.terms.params.voucher_window)
        self._access.give_back(wallet, token_max - held, 0)
        try:
            self._left_in.send_nowait(_Left(rfc, wallet, held))
        except trio.WouldBlock:
            self._access.give_back(wallet, held, held)
            self._node.log.error("too many RFCs to take back: this one waits until its deadline", queued=QUEUED)

    async def _withdraw(self, left: _Left) -> None:
        """Take one RFC back. What it costs is what its router says; all that is held where it says nothing."""
        cost = left.held
        try:
            cost = await self._ask_cost(left)
        finally:
            self._access.give_back(left.wallet, left.held, min(left.held, cost))

    async def _ask_cost(self, left: _Left) -> int:
        """Ask until the RFC's deadline; T that it costs, as far as is known here."""
        asked, failures = left.rfc.payload, 0
        domain, router = self._node.terms.domain, left.wallet.granted.payload.issuer
        rfc_id = left.rfc.id(domain)
        ask = WithdrawAsk(sign(Withdrawal(rfc_id, asked.session_key), left.wallet.key, domain))
        while now_ms() < asked.deadline_ms:
            try:
                answer = await ask_router(self._node, self._public, router, ask, timeout=ASK_S)
                if isinstance(answer, Matched):
                    self._check(left.rfc, answer)
            except AccessRefused as error:  # it had its refusal already, or no pass there
                self._node.log.info("RFC was not waiting", rfc=rfc_id.hex(), code=error.code)
                return 0
            except GossipError as error:
                self._node.log.info("withdrawal waits", rfc=rfc_id.hex(), reason=str(error))
                await trio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
                failures += 1
                continue
            if isinstance(answer, Matched):
                self._node.log.info("RFC was matched before it was taken back", rfc=rfc_id.hex())
                self._abandon(answer, left.wallet)
            elif isinstance(answer, Withdrawn):
                return int(answer.cost)
            else:
                self._node.log.warning("no answer to a withdrawal", rfc=rfc_id.hex(), got=type(answer).__name__)
            break
        return left.held
