"""The names of topics and protocols. Pure.

A topic carries the network id, so that nodes of two networks that meet never hear one another's messages.
"""

from contracts.typed_data import Digest, Domain

_ROOT = "/yellowstone/1"

COMMITTEE = f"{_ROOT}/committee"
"""The committee link: votes, proposals and settlements between members."""
ROUTER = f"{_ROOT}/router"
"""What users and providers ask a home router."""
LIVENESS = f"{_ROOT}/liveness"
"""A router asks a provider whether it can serve now (S28)."""
SEAT = f"{_ROOT}/seat"
"""A router asks a provider whether a session runs on a ticket that has expired."""
CHALLENGE = f"{_ROOT}/challenge"
"""A router asks a provider to show blocks of a model (S42)."""
VOCABULARY = f"{_ROOT}/vocabulary"
"""A user asks a provider for what a model's tokenizer is read from (S30)."""
SESSION = f"{_ROOT}/session"
"""A query and its answer, between user and provider alone (S13, S29)."""
OPINION = f"{_ROOT}/opinion"
"""Whoever took part in a session that was picked opens its transcript to a drawn scorer (S8)."""
SYNC = f"{_ROOT}/sync"
"""Certified batches and order books for nodes that missed them."""

RFC_SHARDS = 16
"""Topics that a network's RFCs are spread over."""


def network_id(domain: Domain) -> str:
    """The first 8 hex digits of the EIP-712 domain separator: one name per chain and contract."""
    return domain.separator().hex()[:8]


def records(network: str) -> str:
    """Node records (S9)."""
    return f"{_ROOT}/{network}/records"


def bids(network: str) -> str:
    """Bids (S19)."""
    return f"{_ROOT}/{network}/bids"


def proofs(network: str) -> str:
    """Model proofs (S42)."""
    return f"{_ROOT}/{network}/proofs"


def batches(network: str) -> str:
    """Certified batches (S17)."""
    return f"{_ROOT}/{network}/batches"


def reveals(network: str) -> str:
    """The beacon's commitments and reveals (S34)."""
    return f"{_ROOT}/{network}/reveals"


def evidence(network: str) -> str:
    """Evidence of messages that exclude each other."""
    return f"{_ROOT}/{network}/evidence"


def rfc(network: str, model_id: Digest) -> str:
    """RFCs of the shard that ``model_id`` falls into (S22): its first byte modulo :data:`RFC_SHARDS`."""
    return _rfc_shard(network, model_id[0] % RFC_SHARDS)


def rfc_shards(network: str) -> tuple[str, ...]:
    """Every topic that :func:`rfc` may name."""
    return tuple(_rfc_shard(network, number) for number in range(RFC_SHARDS))


def _rfc_shard(network: str, number: int) -> str:
    return f"{_ROOT}/{network}/rfc/{number}"
