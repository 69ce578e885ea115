"""The user's reports (S30) on their way to the home router, until it has them."""

import trio

from contracts.typed_data import Address
from gossip.errors import GossipError
from gossip.messages.router import ReportFiling
from node.context import Node, now_ms
from node.roles.access import AccessRefused, ask_router
from node.roles.public import PublicState

REPORT_RETRY_S = (0.5, 1.0, 2.0, 5.0, 10.0)


class Reporting:
    """Owns the filing of one user's reports."""

    def __init__(self, node: Node, public: PublicState) -> None:
        self._node = node
        self._public = public
        self._report_in, self._report_out = trio.open_memory_channel[tuple[Address, ReportFiling]](1_024)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """File reports for ever."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            async for router, filing in self._report_out:
                nursery.start_soon(self._file, router, filing)

    def file(self, router: Address, filing: ReportFiling) -> None:
        """Have a report filed; without one the voucher settles the session."""
        try:
            self._report_in.send_nowait((router, filing))
        except trio.WouldBlock:
            ticket = filing.ticket_id.hex()
            self._node.log.error("report queue is full; the voucher settles the session", ticket=ticket)

    async def _file(self, router: Address, filing: ReportFiling) -> None:
        failures = 0
        give_up = now_ms() + self._node.terms.params.settle_window_slots * self._node.terms.params.slot_ms
        while now_ms() < give_up:
            try:
                await ask_router(self._node, self._public, router, filing, timeout=5)
            except AccessRefused as error:
                self._node.log.warning("report refused", code=error.code, reason=error.detail)
                return
            except GossipError as error:
                self._node.log.info("report waits", reason=str(error))
                await trio.sleep(REPORT_RETRY_S[min(failures, len(REPORT_RETRY_S) - 1)])
                failures += 1
                continue
            return
