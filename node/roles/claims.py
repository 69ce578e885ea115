"""Getting paid: the provider submits the certificate and its Merkle proof in one transaction (S12, S32, S5).

The chain may be away at any time: claims wait and are retried, routing goes on.
"""

import trio

from consensus.market.ledger_state import Ledger
from contracts.errors import TransactionReverted
from contracts.merkle import merkle_proof
from gossip.messages.committee import CertifiedBatch
from node.chain import ChainReader, until_available
from node.context import Node
from node.roles.epochs import Epochs
from node.roles.public import PublicState


class Claims:
    """Claims a provider's credit after each batch that raised it."""

    def __init__(self, node: Node, public: PublicState, chain: ChainReader, epochs: Epochs) -> None:
        self._node = node
        self._public = public
        self._chain = chain
        self._epochs = epochs
        self._latest: tuple[CertifiedBatch, Ledger] | None = None
        self._wake = trio.Event()
        public.on_batch.append(self._note)

    def _note(self, batch: CertifiedBatch) -> None:
        self._latest = batch, self._public.ledger
        self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Claim for ever, what an earlier run left unclaimed first; one claim covers everything credited so far."""
        stored = await self._node.store.get_batch(self._public.ledger.height)
        if stored is not None and stored.header.height == self._public.ledger.height:
            self._note(stored)
        task_status.started()
        while True:
            wake = self._wake
            if self._latest is not None:
                await self._settle(self._latest)
            await wake.wait()
            self._wake = trio.Event()

    async def _settle(self, latest: tuple[CertifiedBatch, Ledger]) -> None:
        try:
            await until_available("claim", self._claim, log=self._node.log, most_s=30)
        except TransactionReverted as error:
            self._node.log.error("claim refused by the contract", reason=str(error))
            batch, ledger = self._latest or latest
            cumulative = ledger.credits.get(self._node.address, 0)
            await self._node.store.put_claim(batch.header.height, cumulative, status=f"reverted: {error.reason}")

    async def _claim(self) -> None:
        """One attempt, on the newest batch: after an outage one claim covers all that was credited meanwhile."""
        if self._latest is None:
            return
        batch, ledger = self._latest
        provider, height = self._node.address, batch.header.height
        cumulative = ledger.credits.get(provider, 0)
        paid = await self._chain.paid(provider)
        await self._close_lost(paid)
        if cumulative <= paid:
            return
        decided = self._public.find_committee(batch.header.committee_root) or self._public.committee
        if not await self._epochs.bring(decided.epoch):
            # somebody has handed over already: the next committee's first batch carries this credit, too
            return
        await self._node.store.put_claim(height, cumulative, amount_wei=cumulative - paid, status="sent")
        payment = await self._chain.claim_with_certificate(
            self._node.key,
            batch.header,
            batch.certificate,
            provider=provider,
            cumulative=cumulative,
            proof=merkle_proof(ledger.credits, provider),
        )
        await self._node.store.put_claim(
            height,
            cumulative,
            amount_wei=payment.amount_wei,
            tx_hash=payment.tx_hash,
            gas=payment.gas_used,
            status="paid",
        )
        self._node.log.info("claimed", height=height, amount_wei=payment.amount_wei, tx=payment.tx_hash.hex())

    async def _close_lost(self, paid: int) -> None:
        """Claims whose answer was lost, and that were mined all the same; the others are made anew."""
        for claim in await self._node.store.open_claims():
            status = "paid, the answer was lost" if claim.cumulative_wei <= paid else "replaced"
            await self._node.store.put_claim(
                claim.height, claim.cumulative_wei, amount_wei=claim.amount_wei, status=status
            )
