"""The attacks of tests/conformance/certificates.json against the deployed contract: it and the core agree on each.

Two kinds of attack never get there, and the file says which: a signature that has no compact form is refused by the
client ("unencodable"), and what a certificate says of batch, height and committee isn't sent at all ("unsent"), because
the contract takes it from the header.
"""

import pytest

from consensus.committee import Committee
from consensus.errors import CertificateInvalid
from consensus.tendermint.certificate import verify_certificate
from contracts.bindings import certificate
from contracts.errors import SignatureInvalid
from contracts.typed_data import Domain
from gossip.messages.committee import BatchHeader, CommitCertificate
from testnet.evm import Refused
from tests.conformance.certificate_vectors import KEYS, VECTORS, Json, build
from tests.contracts.local_chain import World

REASONS = {
    "no_quorum": {"compute: no quorum"},
    "duplicate_signer": {"compute: unsorted signers"},
    "unsorted": {"compute: unsorted signers"},
    "signature": {"compute: bad signature", "compute: high s"},
    # signed over something else, a stranger's address recovers, and where it sorts is chance; or none recovers
    "unknown_member": {"registry: unknown signer", "compute: unsorted signers", "compute: bad signature"},
    "batch_hash": {
        *("registry: unknown signer", "compute: unsorted signers", "compute: bad signature"),
        "registry: unknown committee",  # where the header is moved to one
        "compute: wrong day",  # a day that the header's slot isn't in
    },
    "committee_root": {"registry: unknown committee", "compute: unsorted signers", "compute: bad signature"},
}
"""By what words the contract may refuse each fault. 65 signatures are refused by their number, without a word."""


def world_of(committee: Committee) -> World:
    """A deployment whose newest committee is ``committee``."""
    keys = [key for key in KEYS if committee.weight(key.address)]
    world = World([committee.weight(key.address) for key in keys], keys=keys)
    while world.committee.epoch < committee.epoch:
        world.hand_over([(member.address, member.stake) for member in committee.members])
    return world


def set_up(mutation: Json) -> tuple[World, CommitCertificate, BatchHeader]:
    """The vector's deployment, and its certificate made for that deployment's domain."""
    _, _, committee = build(mutation)
    world = world_of(committee)
    made, header, again = build(mutation, world.domain)
    assert committee == again == world.committee
    assert world.root == committee.root
    return world, made, header


def submitted(world: World, made: CommitCertificate, header: BatchHeader) -> str | None:
    """The contract's reason to refuse, None where it accepts."""
    arguments = certificate(header, made.round, made.signatures)
    try:
        world.compute("submit", *arguments)
    except Refused as refusal:
        assert world.compute("latest_height") == 0
        return refusal.reason
    assert world.compute("latest_height") == header.height
    return None


def core_accepts(made: CommitCertificate, header: BatchHeader, committee: Committee, domain: Domain) -> bool:
    try:
        verify_certificate(made, header, committee, domain)
    except CertificateInvalid:
        return False
    return True


def named(vectors: list[Json]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", vectors, ids=[vector["name"] for vector in vectors])


@named([vector for vector in VECTORS if "on_chain" not in vector])
def test_the_contract_decides_as_the_core_does(vector: Json) -> None:
    world, made, header = set_up(vector["mutation"])
    assert core_accepts(made, header, world.committee, world.domain) == vector["accepted"]
    reason = submitted(world, made, header)
    if vector["accepted"]:
        assert reason is None
    elif len(made.signatures) > 64:
        assert reason == ""
    else:
        assert reason in REASONS[vector["fault"]]


@named([vector for vector in VECTORS if vector.get("on_chain") == "unencodable"])
def test_what_has_no_compact_form_is_refused_by_the_client(vector: Json) -> None:
    world, made, header = set_up(vector["mutation"])
    assert not vector["accepted"]
    with pytest.raises(SignatureInvalid):
        certificate(header, made.round, made.signatures)
    assert not core_accepts(made, header, world.committee, world.domain)


@named([vector for vector in VECTORS if vector.get("on_chain") == "unsent"])
def test_what_is_not_sent_cannot_deceive_the_contract(vector: Json) -> None:
    """The lie is in what only peers are told: the call is, to the byte, that of the good certificate."""
    world, made, header = set_up(vector["mutation"])
    good, _, _ = build({}, world.domain)
    assert made != good
    assert certificate(header, made.round, made.signatures) == certificate(header, good.round, good.signatures)
    assert not core_accepts(made, header, world.committee, world.domain)
    assert submitted(world, made, header) is None
    accepted_hash = world.compute("batch_hash", certificate(header, 0, [])[0])
    assert accepted_hash == good.batch_hash
    assert (made.batch_hash, made.height, made.committee_root) != (accepted_hash, header.height, header.committee_root)


def test_each_vector_is_tried_in_one_of_these_ways() -> None:
    assert {vector.get("on_chain") for vector in VECTORS} == {None, "unencodable", "unsent"}
    assert all(not vector["accepted"] for vector in VECTORS if "on_chain" in vector)
