"""A credit's proof: what it takes to hold, and what is named when it does not."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from consensus.committee import Committee
from consensus.errors import CertificateFault, CertificateInvalid
from consensus.market.errors import ProofInvalid
from consensus.market.proof import CreditProof, verify_credit
from consensus.tendermint.certificate import assemble_certificate
from contracts.merkle import merkle_proof, merkle_root
from contracts.typed_data import Address, Digest, Domain, Uint256
from gossip.messages.committee import BatchHeader, CommitCertificate, Precommit, batch_hash
from tests.consensus.builders import World, address, named_digest


def certify(world: World, header: BatchHeader) -> CommitCertificate:
    value = batch_hash(header)
    vote = Precommit(header.height, 0, value, world.committee.root)
    signatures = {member.address: member.sign(vote, world.domain) for member in world.members}
    return assemble_certificate(header.height, 0, value, world.committee, signatures)


def make_proof(world: World, provider: str = "p1") -> CreditProof:
    ledger = world.ledger()
    pending = [world.settlement(session=f"s{number}", provider=f"p{number % 5}") for number in range(7)]
    header, body, _ = world.propose(ledger, pending)
    credits = world.apply(ledger, header, body).credits
    path = merkle_proof(credits, address(provider))
    return CreditProof(address(provider), credits[address(provider)], path, header, certify(world, header))


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def proof(world: World) -> CreditProof:
    return make_proof(world)


def test_every_providers_proof_holds(world: World) -> None:
    for number in range(5):
        made = make_proof(world, f"p{number}")
        verify_credit(made, world.committee, world.domain)
        verify_credit(made, world.committee, world.domain, address(f"p{number}"))


MERKLE: list[Callable[[CreditProof], CreditProof]] = [
    lambda p: replace(p, cumulative=Uint256(p.cumulative + 1)),
    lambda p: replace(p, provider=address("p2")),
    lambda p: replace(p, proof=p.proof[:-1]),
    lambda p: replace(p, proof=(*p.proof, named_digest("x"))),
    lambda p: replace(p, proof=(named_digest("x"), *p.proof[1:])),
]


@pytest.mark.parametrize("tamper", MERKLE)
def test_what_is_not_in_the_tree_is_refused(
    world: World, proof: CreditProof, tamper: Callable[[CreditProof], CreditProof]
) -> None:
    with pytest.raises(ProofInvalid) as caught:
        verify_credit(tamper(proof), world.committee, world.domain)
    assert (caught.value.reason, caught.value.value) == ("merkle_proof", proof.header.credit_root)


def test_every_header_field_is_under_the_certificate(world: World, proof: CreditProof) -> None:
    for name in proof.header.__struct_fields__:
        value = getattr(proof.header, name)
        other = type(value)(value + 1) if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:]
        tampered = replace(proof, header=replace(proof.header, **{name: other}))
        with pytest.raises(CertificateInvalid) as caught:
            verify_credit(tampered, world.committee, world.domain)
        assert caught.value.fault is CertificateFault.BATCH_HASH


def test_the_certificate_is_checked_before_the_path(world: World, proof: CreditProof) -> None:
    both = replace(proof, cumulative=Uint256(1), certificate=replace(proof.certificate, signatures=()))
    with pytest.raises(CertificateInvalid) as caught:
        verify_credit(both, world.committee, world.domain)
    assert caught.value.fault is CertificateFault.NO_QUORUM


def test_another_committee_or_network_did_not_sign_it(world: World, proof: CreditProof) -> None:
    other = Committee.of(2, list(world.committee.members))
    with pytest.raises(CertificateInvalid, match="committee_root"):
        verify_credit(proof, other, world.domain)
    with pytest.raises(CertificateInvalid, match="unknown_member"):
        verify_credit(proof, world.committee, Domain(1, world.domain.contract))


def test_another_providers_credit_is_named(world: World, proof: CreditProof) -> None:
    with pytest.raises(ProofInvalid) as caught:
        verify_credit(proof, world.committee, world.domain, Address(b"\x01" * 20))
    assert (caught.value.reason, caught.value.value) == ("provider", proof.provider)


def test_a_credit_above_all_credits_is_refused_even_where_it_is_certified(world: World, proof: CreditProof) -> None:
    """Only a committee that lies can make one; the contract would not pay it either."""
    root: Digest = merkle_root({proof.provider: proof.header.total_credited + 1})
    header = replace(proof.header, credit_root=root)
    too_much = Uint256(proof.header.total_credited + 1)
    lie = CreditProof(proof.provider, too_much, (), header, certify(world, header))
    with pytest.raises(ProofInvalid, match="cumulative"):
        verify_credit(lie, world.committee, world.domain)
