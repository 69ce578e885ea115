"""A provider's accepted tickets: kept while a batch can settle them or a session may go on, and no longer."""

from pathlib import Path

import pytest

from contracts.typed_data import Digest
from node.context import now_ms
from tests.node.builders import DOMAIN, ticket, voucher
from tests.node.roles.harness import SHORT, eventually, open_lab

GONE_MS = SHORT.settle_window_slots * SHORT.slot_ms + SHORT.session_max_ms
MANY = 1_500
"""More than are forgotten at once."""


async def test_tickets_that_nothing_can_settle_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(tmp_path, monkeypatch) as lab:
        long_ago, lately = now_ms() - GONE_MS - 1_000, now_ms() - GONE_MS + 600_000
        async with lab.bare("provider", ("provider",)) as node:

            async def accept(number: int, expires_ms: int) -> Digest:
                made = ticket(number, expires_ms=expires_ms)
                await node.store.accept_ticket(made.id(DOMAIN), made)
                return made.id(DOMAIN)

            unfiled, filed, fresh = [await accept(1, long_ago), await accept(2, long_ago), await accept(3, lately)]
            for ticket_id in (unfiled, filed, fresh):
                await node.store.put_voucher(ticket_id, voucher(ticket_id, 3))
            await node.store.mark_filed(filed)
            unused = [await accept(number, long_ago) for number in range(10, 10 + MANY)]
        provider = await lab.start_provider("provider")

        async def are_gone() -> bool:
            return not any([await provider.node.store.delivery(one) for one in (unfiled, filed, unused[0], unused[-1])])

        await eventually(are_gone, "their end")
        held = await provider.node.store.delivery(fresh)
        assert held is not None, "it may be paid yet"
        assert [one.ticket_id for one in await provider.node.store.unfiled_deliveries()] == [fresh]
