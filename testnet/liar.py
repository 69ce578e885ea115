"""A node that cheats, for runs that show that it is found out: everything else of it is the real node.

``python -m testnet.liar LIE node.toml``, where LIE is ``draw`` (a router gives every match to the dearest candidate),
``count`` (a provider's receipts claim more T than it sent) or ``index`` (a user signs two RFCs for each index).
"""

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec
import trio

from consensus.market.book import StandingBid
from contracts.typed_data import Digest
from gossip.messages import encode, sign
from inference.session.serving import Serving
from node.api.backend import ChatRequest, ModelCard
from node.app import run_node
from node.config import load_node
from node.roles import drawing
from node.roles.asking import Asking

EXTRA_T = 7
"""T that a lying receipt claims too many."""


def lie_in_draws() -> None:
    """Let the dearest candidate win, wherever the draw points."""

    def pick(band: Sequence[StandingBid], unlive: Collection[Digest], drawn: Digest) -> StandingBid:  # noqa: ARG001
        return max((one for one in band if one.bid_id not in unlive), key=lambda one: (one.bid.price_wei, one.bid_id))

    setattr(drawing, "pick", pick)  # noqa: B010  # a name that it imports is no attribute to type checkers


def lie_in_receipts() -> None:
    """Claim more than was sent."""
    honest: Any = Serving._send_receipt  # what is replaced

    async def send_receipt(self: Any, *args: Any, **options: Any) -> None:
        self._sent += EXTRA_T
        await honest(self, *args, **options)

    Serving._send_receipt = send_receipt  # type: ignore[method-assign]  # as above


def use_indexes_twice() -> None:
    """Gossip a second RFC with each index."""
    honest: Any = Asking._send_rfc  # what is replaced

    async def send_rfc(self: Any, request: ChatRequest, card: ModelCard, patience_s: float) -> Any:
        wallet, rfc, stream = await honest(self, request, card, patience_s)
        double = sign(
            msgspec.structs.replace(rfc.payload, token_max=rfc.payload.token_max + 1),
            wallet.key,
            self._node.terms.domain,
        )
        self._node.log.warning("lies", session_key=wallet.key.address.hex())
        await self._node.network.publish(self._node.topics.rfc(card.model_id), encode(double))
        return wallet, rfc, stream

    Asking._send_rfc = send_rfc  # type: ignore[method-assign]  # as above


LIES = {"draw": lie_in_draws, "count": lie_in_receipts, "index": use_indexes_twice}


def main() -> None:
    """Cheat, until standard input ends."""
    lie, path = sys.argv[1:]
    LIES[lie]()
    trio.run(run_node, load_node(Path(path), {}), True)


if __name__ == "__main__":
    main()
