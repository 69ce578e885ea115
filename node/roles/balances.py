"""MOR balances at a day's snapshot block, kept on disk so that a chain outage never stops routing (S5)."""

import json
from collections.abc import Iterable

from contracts.errors import ChainError, ChainUnavailable
from contracts.typed_data import Address
from node.chain import ChainReader
from node.context import Node

_KEY = "balances"


class Balances:
    """Balances of one snapshot block at a time."""

    def __init__(self, node: Node, chain: ChainReader | None) -> None:
        self._node = node
        self._chain = chain
        self._block = -1
        self._known: dict[Address, int] = {}

    async def load(self) -> None:
        """Read what an earlier run knew."""
        stored = await self._node.store.get_value(_KEY)
        if stored is not None:
            document = json.loads(stored)
            self._block = document["block"]
            self._known = {Address(bytes.fromhex(who)): int(wei) for who, wei in document["balances"].items()}

    async def of(self, address: Address, block: int) -> int:
        """Wei of MOR that ``address`` held at ``block``; in an outage, at the last snapshot that is known.

        Raises :class:`ChainUnavailable` where nobody knows.
        """
        try:
            return (await self._learn([address], block))[address]
        except ChainError as error:
            if address not in self._known:
                raise
            self._node.log.warning("balance of an earlier snapshot", block=self._block, reason=str(error))
            return self._known[address]

    async def holders(self, addresses: Iterable[Address], block: int) -> frozenset[Address]:
        """Those of ``addresses`` that hold MOR (S43); an outage leaves out only those never seen before."""
        wanted = list(addresses)
        try:
            found = await self._learn(wanted, block)
        except ChainError as error:
            self._node.log.warning("provider balances unknown", reason=str(error))
            found = self._known
        return frozenset(address for address in wanted if found.get(address, 0) > 0)

    async def _learn(self, addresses: list[Address], block: int) -> dict[Address, int]:
        """What is known of ``block``, ``addresses`` included; another block may be asked for meanwhile."""
        missing = [address for address in addresses if self._block != block or address not in self._known]
        if not missing:
            return self._known
        if self._chain is None:
            raise ChainUnavailable("none", "this node has no chain endpoint")
        found = await self._chain.balances(missing, block)
        if self._block != block:
            self._block, self._known = block, {}
        known = self._known
        known |= found
        document = {"block": block, "balances": {who.hex(): str(wei) for who, wei in self._known.items()}}
        await self._node.store.put_value(_KEY, json.dumps(document).encode())
        return known
