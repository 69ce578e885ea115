"""Between the ledger's committees and the registry's: hand-overs are brought there, rescues are read from there.

The ledger follows hand-overs by itself, and may be epochs ahead of the registry: whoever wants to be paid, or to take
its stake out, brings the registry what it lacks (S12: routers send no transaction).
"""

from collections.abc import Callable

import trio

from consensus.committee import Committee, Member
from contracts.errors import ChainError, TransactionReverted
from node.chain import ChainReader
from node.context import Node
from node.roles.public import PublicState

RESCUE_POLL_S = 15.0
"""How often the registry is asked for a rescue. Only what it says twice counts: a block may yet be replaced."""


class Epochs:
    """One node's bridge for epochs."""

    def __init__(self, node: Node, public: PublicState, chain: ChainReader) -> None:
        self._node = node
        self._public = public
        self._chain = chain
        self._seen: Committee | None = None
        self.on_rescue: list[Callable[[Committee], None]] = []
        """Called once with the committee that a rescue has put in the place of the running one."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look for rescues for ever."""
        task_status.started()
        while True:
            try:
                await self.look()
            except ChainError as error:
                self._node.log.debug("registry can't be read", reason=str(error))
            await trio.sleep(RESCUE_POLL_S)

    async def look(self) -> None:
        """Read the registry once. Raises :class:`~contracts.errors.ChainUnavailable`."""
        rescued: Committee | None = None
        for epoch in await self._chain.epochs(self._public.ledger.running.epoch):
            if not epoch.is_rescue:
                break
            rescued = Committee(epoch.number, tuple(Member(address, stake) for address, stake in epoch.members))
        confirmed, self._seen = rescued is not None and rescued == self._seen, rescued
        if rescued is not None and confirmed and self._public.note_rescue(rescued):
            self._node.log.warning("the registry was rescued", epoch=rescued.epoch, members=len(rescued.members))
            for callback in self.on_rescue:
                callback(rescued)

    async def bring(self, epoch: int) -> bool:
        """Hand over in the registry until it is at ``epoch``; whether it is there afterwards, and not beyond.

        Raises :class:`~contracts.errors.ChainUnavailable`, and :class:`~contracts.errors.TransactionReverted` where the
        registry refuses and nobody else was quicker.
        """
        while (reached := await self._chain.epoch()) < epoch:
            certificate = self._public.hand_overs.get(reached)
            if certificate is None:
                self._node.log.warning("no hand-over is known that ends the registry's epoch", epoch=reached)
                return False
            coming = self._public.epochs[reached + 1]
            try:
                tx_hash = await self._chain.hand_over(
                    self._node.key, certificate, [(one.address, int(one.stake)) for one in coming.members]
                )
            except TransactionReverted:
                if await self._chain.epoch() == reached:
                    raise
                continue
            self._node.log.info("handed over in the registry", epoch=reached + 1, tx=tx_hash.hex())
        return reached == epoch
