"""Where a network's processes run: on loopback, or each in a network of its own (:mod:`testnet.netns`)."""

from collections.abc import Sequence
from typing import Protocol

from node.config import NodeFile
from testnet.control import Ready


class Places(Protocol):
    """What the launcher asks of wherever nodes run."""

    def command(self, name: str, command: Sequence[str]) -> list[str]:
        """How ``command`` is run for node ``name``."""

    def place(self, name: str, config: NodeFile) -> NodeFile:
        """The node's file as it has to be there: where it listens, where it finds the chain."""

    async def prepare(self, rpc_url: str) -> None:
        """Let nodes reach the chain at ``rpc_url``."""

    async def reach(self, name: str, ready: Ready) -> Ready:
        """The node's addresses as the launcher can reach them."""


class Loopback:
    """All on 127.0.0.1."""

    def command(self, name: str, command: Sequence[str]) -> list[str]:  # noqa: ARG002  # the same for all
        """As it is."""
        return list(command)

    def place(self, name: str, config: NodeFile) -> NodeFile:  # noqa: ARG002  # the same for all
        """As it is."""
        return config

    async def prepare(self, rpc_url: str) -> None:
        """Nothing to do."""

    async def reach(self, name: str, ready: Ready) -> Ready:  # noqa: ARG002  # the same for all
        """As it is."""
        return ready


LOOPBACK = Loopback()
