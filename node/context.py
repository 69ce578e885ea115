"""What every role of one node shares: keys, terms, network, storage, chain and the only wall clock."""

import time
from dataclasses import dataclass

import structlog
import trio

from consensus.params import Terms
from contracts.signing import Key
from contracts.typed_data import Address, Digest, Domain
from gossip import topics
from gossip.network import Network
from node.chain import ChainReader
from node.config import NodeFile
from node.store import Store


def now_ms() -> int:
    """Unix time in ms; the cores get it as input."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Topics:
    """The gossip topics of one network."""

    records: str
    bids: str
    proofs: str
    batches: str
    reveals: str
    evidence: str
    network: str

    @classmethod
    def of(cls, domain: Domain) -> "Topics":
        """The topics of the network that ``domain`` names."""
        network = topics.network_id(domain)
        return cls(
            records=topics.records(network),
            bids=topics.bids(network),
            proofs=topics.proofs(network),
            batches=topics.batches(network),
            reveals=topics.reveals(network),
            evidence=topics.evidence(network),
            network=network,
        )

    def rfc(self, model_id: Digest) -> str:
        """The topic of RFCs for one model."""
        return topics.rfc(self.network, model_id)

    def rfc_shards(self) -> tuple[str, ...]:
        """The topics of all RFCs."""
        return topics.rfc_shards(self.network)


@dataclass(frozen=True, slots=True)
class Node:
    """One running node's shared parts."""

    config: NodeFile
    terms: Terms
    key: Key
    network: Network
    store: Store
    chain: ChainReader | None
    topics: Topics
    log: structlog.stdlib.BoundLogger

    @property
    def address(self) -> Address:
        """This node's MOR address."""
        return self.key.address

    def slot(self) -> int:
        """The slot that now falls into."""
        return self.terms.params.slot_at(now_ms(), self.terms.genesis_ms)

    def ms_until(self, slot: int) -> int:
        """How long until ``slot`` begins, in ms; negative once it has begun."""
        return self.terms.genesis_ms + slot * self.terms.params.slot_ms - now_ms()

    async def next_slot(self, after: int) -> int:
        """Return when a slot later than ``after`` has begun; which one."""
        while self.slot() <= after:
            await trio.sleep(max(0.001, self.ms_until(after + 1) / 1_000))
        return self.slot()
