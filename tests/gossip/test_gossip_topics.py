"""Names of topics and protocols."""

from contracts.typed_data import Address, Digest, Domain
from gossip import topics


def test_networks_share_no_topic() -> None:
    here, there = (topics.network_id(Domain(chain, Address(b"\1" * 20))) for chain in (1, 2))
    assert here != there
    names = [topics.records, topics.bids, topics.proofs, topics.batches, topics.reveals, topics.evidence]
    all_names = [name(network) for network in (here, there) for name in names]
    all_names += [topics.rfc(network, Digest(bytes([shard]) * 32)) for network in (here, there) for shard in range(16)]
    assert len(set(all_names)) == len(all_names) == 44


def test_the_network_id_is_eight_hex_digits_of_the_domain() -> None:
    domain = Domain(1, Address(b"\1" * 20))
    assert topics.network_id(domain) == domain.separator().hex()[:8]


def test_rfcs_are_sharded_by_the_models_first_byte() -> None:
    assert topics.rfc("n", Digest(b"\x21" + bytes(31))) == topics.rfc("n", Digest(b"\x01" + b"\xff" * 31))
    assert topics.rfc("n", Digest(b"\x21" + bytes(31))) != topics.rfc("n", Digest(b"\x22" + bytes(31)))
    assert {topics.rfc("n", Digest(bytes([first]) * 32)) for first in range(256)} == set(topics.rfc_shards("n"))


def test_protocols_differ() -> None:
    assert len({topics.COMMITTEE, topics.ROUTER, topics.LIVENESS, topics.SESSION, topics.SYNC}) == 5
    assert topics.COMMITTEE == "/yellowstone/1/committee"
