from functools import cache

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from contracts.artifacts import load_artifact
from contracts.bindings import certificate, compact_signature, compute_arguments
from contracts.errors import SignatureInvalid
from contracts.merkle import merkle_proof, merkle_root
from contracts.signing import Key
from contracts.typed_data import ZERO_ADDRESS, ZERO_DIGEST, Address, Digest, Domain, Uint256, digest
from gossip.messages.committee import Precommit, batch_hash
from testnet.evm import Contract, Refused
from tests.contracts.local_chain import FUNDS, MOR, World, refused

ALICE = Address(b"\xa1" * 20)
BOB = Address(b"\xb0" * 20)
CAROL = Address(b"\xca" * 20)
CREDITS = {ALICE: 30 * MOR, BOB: 12 * MOR + 1}

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def keys_of(world: World, *stakes: int) -> list[Key]:
    return [key for key in world.keys if world.committee.weight(key.address) in stakes]


@cache
def shared() -> World:
    """For tests that only ask, however often."""
    return World()


# hashes and digests


def test_the_contract_hashes_a_header_as_the_committee_does(world: World) -> None:
    header = world.header(5, CREDITS, reveal=Digest(b"\x77" * 32), day=3, bootstrap_credited=Uint256(5))
    assert world.compute("batch_hash", certificate(header, 0, [])[0]) == batch_hash(header)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
@settings(max_examples=20, deadline=None)
def test_the_contract_digests_a_precommit_as_the_committee_does(height: int, round_: int, value: bytes) -> None:
    vote = Precommit(height, round_, Digest(value), Digest(value[::-1]))
    found = shared().compute("precommit_digest", height, round_, value, value[::-1])
    assert found == digest(shared().domain, vote)


# accepting


def test_a_certificate_is_accepted(world: World) -> None:
    header = world.header(1, CREDITS)
    world.submit(header, round_=0)
    assert world.compute("latest_height") == 1
    assert world.compute("credited_total") == 42 * MOR + 1
    assert world.compute("credit_root", 1) == merkle_root(CREDITS)


def test_acceptance_is_logged(world: World) -> None:
    header = world.header(1, CREDITS)
    data = load_artifact("compute").encode_call("submit", *certificate(header, 2, world.sign(header, round_=2)))
    [(topics, body)] = world.compute.logs(data, "BatchAccepted(uint64,bytes32,uint256)")
    assert topics == [(1).to_bytes(32, "big")]
    assert body == batch_hash(header) + int(header.total_credited).to_bytes(32, "big")


def test_anybody_submits_and_heights_may_be_skipped(world: World) -> None:
    header = world.header(9, CREDITS)
    world.compute("submit", *certificate(header, 0, world.sign(header)), sender=CAROL)
    assert world.compute("latest_height") == 9


def test_more_than_two_thirds_is_enough() -> None:
    world = World((100, 200, 301, 400))
    header = world.header(1, CREDITS)
    world.submit(header, world.sign(header, keys_of(world, 301, 400)))
    assert world.compute("latest_height") == 1


def test_exactly_two_thirds_is_refused() -> None:
    world = World((100, 200, 300, 300))
    header = world.header(1, CREDITS)
    with refused("compute: no quorum"):
        world.submit(header, world.sign(header, keys_of(world, 300)))
    world.submit(header, world.sign(header, keys_of(world, 300, 100)))


def test_no_signature_at_all_is_refused(world: World) -> None:
    with refused("compute: no quorum"):
        world.submit(world.header(1, CREDITS), [])


def test_a_duplicated_signature_is_refused(world: World) -> None:
    header = world.header(1, CREDITS)
    first = world.sign(header)[0]
    with refused("compute: unsorted signers"):
        world.submit(header, [first] * 4)


def test_unsorted_signatures_are_refused(world: World) -> None:
    header = world.header(1, CREDITS)
    with refused("compute: unsorted signers"):
        world.submit(header, world.sign(header)[::-1])


def test_a_stranger_among_the_signers_is_refused(world: World) -> None:
    header = world.header(1, CREDITS)
    with refused("registry: unknown signer"):
        world.submit(header, world.sign(header, [*world.keys, Key(b"\x66" * 32)]))


def test_a_signature_that_recovers_to_nobody_is_refused(world: World) -> None:
    header = world.header(1, CREDITS)
    for broken in (
        bytes(32) + world.sign(header)[0][32:],
        b"\xff" * 32 + world.sign(header)[0][32:],
        bytes(64) + b"\x1b",
    ):
        with refused("compute: bad signature"):
            world.submit(header, [broken, *world.sign(header)[1:]])


def test_a_high_s_is_refused_on_chain(world: World) -> None:
    """The twin of a signature, put into the compact form by hand because the client would not."""
    fields, round_, pairs = certificate(header := world.header(1, CREDITS), 0, world.sign(header))
    (r, vs), *others = pairs
    twins = []
    for parity in (0, 1):
        s = ORDER - (int.from_bytes(vs, "big") & 2**255 - 1)
        twins.append((r, (s & 2**255 - 1 | parity << 255).to_bytes(32, "big")))
    for twin in twins:
        with pytest.raises(Refused):
            world.compute("submit", fields, round_, (twin, *others))
    just_high = (ORDER // 2 + 1).to_bytes(32, "big")
    with refused("compute: high s"):
        world.compute("submit", fields, round_, ((r, just_high), *others))


def test_the_client_refuses_to_compact_a_high_s_or_another_v(world: World) -> None:
    good = world.sign(world.header(1, CREDITS))[0]
    for bad in (good[:32] + b"\x80" + good[33:], good[:64] + b"\x00", good[:64]):
        with pytest.raises(SignatureInvalid, match=bad.hex()):
            compact_signature(bad)


def test_an_unknown_committee_is_refused(world: World) -> None:
    header = world.header(1, CREDITS, committee_root=Digest(b"\x01" * 32))
    with refused("registry: unknown committee"):
        world.submit(header)


def test_the_zero_committee_is_refused(world: World) -> None:
    header = world.header(1, CREDITS, committee_root=ZERO_DIGEST)
    with refused("registry: unknown committee"):
        world.submit(header)


@pytest.mark.parametrize("stranger", [{"chain_id": 77_102}, {"contract": CAROL}])
def test_a_certificate_for_another_chain_or_contract_is_refused(world: World, stranger: dict[str, object]) -> None:
    fields = {"chain_id": world.domain.chain_id, "contract": world.domain.contract} | stranger
    header = world.header(1, CREDITS)
    with pytest.raises(Refused):  # each signature recovers to a stranger: which rule catches it is chance
        world.submit(header, world.sign(header, domain=Domain(**fields)))  # type: ignore[arg-type]  # of mixed types
    assert world.compute("latest_height") == 0


def test_the_chain_id_is_read_at_each_call(world: World) -> None:
    header = world.header(1, CREDITS)
    signatures = world.sign(header)
    world.chain.env.evm.patch.chain_id = 1
    with pytest.raises(Refused):
        world.submit(header, signatures)
    world.submit(header, world.sign(header, domain=Domain(1, world.compute.address)))


def test_signatures_of_another_round_do_not_count(world: World) -> None:
    header = world.header(1, CREDITS)
    with pytest.raises(Refused):
        world.submit(header, world.sign(header, round_=1), round_=0)
    mixed = [
        (world.sign(header, round_=1) if place == 0 else world.sign(header))[place] for place in range(len(world.keys))
    ]
    with pytest.raises(Refused):
        world.submit(header, mixed, round_=0)


def test_precommits_for_nil_are_no_certificate(world: World) -> None:
    header = world.header(1, CREDITS)
    nil = digest(world.domain, Precommit(1, 0, ZERO_DIGEST, world.root))
    with pytest.raises(Refused):
        world.submit(header, [key.sign_digest(nil) for key in sorted(world.keys, key=lambda key: key.address)])


@pytest.mark.parametrize(
    "change",
    [
        {"height": 2},
        {"slot": 9},
        {"slot": 18, "day": 1},
        {"parent": Digest(b"\x01" * 32)},
        {"body_root": Digest(b"\x01" * 32)},
        {"credit_root": Digest(b"\x01" * 32)},
        {"total_credited": Uint256(1)},
        {"bootstrap_credited": Uint256(1)},
        {"state_root": Digest(b"\x01" * 32)},
        {"beacon": Digest(b"\x01" * 32)},
        {"reveal": Digest(b"\x01" * 32)},
        {"proposer": CAROL},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_of_the_header_is_signed(world: World, change: dict[str, object]) -> None:
    signatures = world.sign(world.header(1, CREDITS))
    with pytest.raises(Refused):
        world.submit(msgspec.structs.replace(world.header(1, CREDITS), **change), signatures)


@pytest.mark.parametrize("height", [0, 4, 5])
def test_an_old_height_is_refused(world: World, height: int) -> None:
    world.submit(world.header(5, CREDITS))
    with refused("compute: old height"):
        world.submit(world.header(height, CREDITS))


def test_height_zero_is_refused_from_the_start(world: World) -> None:
    with refused("compute: old height"):
        world.submit(world.header(0, CREDITS))


def test_a_falling_total_is_refused(world: World) -> None:
    world.submit(world.header(1, CREDITS))
    with refused("compute: falling total"):
        world.submit(world.header(2, CREDITS, total_credited=Uint256(42 * MOR)))
    world.submit(world.header(2, CREDITS))


def test_the_contract_never_credits_more_than_it_received(world: World) -> None:
    """S35, and what was paid out counts as received."""
    world.submit(world.header(1, {ALICE: FUNDS}))
    world.claim({ALICE: FUNDS}, ALICE, 1)
    with refused("compute: not funded"):
        world.submit(world.header(2, {ALICE: FUNDS + 1}))
    assert world.compute("credit_root", 2) == ZERO_DIGEST
    world.mor("mint", world.compute.address, 1)
    world.submit(world.header(2, {ALICE: FUNDS + 1}))
    assert world.claim({ALICE: FUNDS + 1}, ALICE, 2) == 1


# claiming


def test_a_provider_is_paid_what_it_was_credited(world: World) -> None:
    world.submit(world.header(1, CREDITS))
    assert world.claim(CREDITS, ALICE, 1) == 30 * MOR
    assert world.balance(ALICE) == 30 * MOR
    assert world.balance(world.compute.address) == FUNDS - 30 * MOR
    assert world.compute("paid", ALICE) == world.compute("paid_total") == 30 * MOR
    assert world.compute("paid", BOB) == 0


def test_a_payment_is_logged(world: World) -> None:
    world.submit(world.header(1, CREDITS))
    arguments = (BOB, CREDITS[BOB], 1, merkle_proof(CREDITS, BOB))
    data = load_artifact("compute").encode_call("claim", *arguments)
    logged = world.compute.logs(data, "Claimed(address,uint64,address,uint256)", sender=CAROL)
    body = BOB.rjust(32, b"\0") + CREDITS[BOB].to_bytes(32, "big")
    assert logged == [([BOB.rjust(32, b"\0"), (1).to_bytes(32, "big")], body)]


def test_nothing_is_paid_twice(world: World) -> None:
    world.submit(world.header(1, CREDITS))
    world.claim(CREDITS, ALICE, 1)
    with refused("compute: nothing to claim"):
        world.claim(CREDITS, ALICE, 1)


def test_a_later_batch_pays_the_difference(world: World) -> None:
    world.submit(world.header(1, CREDITS))
    world.claim(CREDITS, ALICE, 1)
    later = CREDITS | {ALICE: 31 * MOR}
    world.submit(world.header(2, later))
    assert world.claim(later, ALICE, 2) == MOR
    assert world.balance(ALICE) == world.compute("paid", ALICE) == 31 * MOR


def test_a_new_batch_does_not_break_a_pending_claim(world: World) -> None:
    world.submit(world.header(1, CREDITS))
    world.submit(world.header(2, CREDITS | {CAROL: 1}))
    assert world.claim(CREDITS, ALICE, 1) == 30 * MOR


def test_an_older_batch_pays_nothing_after_a_newer(world: World) -> None:
    later = CREDITS | {ALICE: 31 * MOR}
    world.submit(world.header(1, CREDITS))
    world.submit(world.header(2, later))
    world.claim(later, ALICE, 2)
    with refused("compute: nothing to claim"):
        world.claim(CREDITS, ALICE, 1)


def test_another_amount_provider_or_proof_is_refused(world: World) -> None:
    world.submit(world.header(1, CREDITS))
    proof = merkle_proof(CREDITS, ALICE)
    for arguments in (
        (ALICE, 30 * MOR + 1, 1, proof),
        (CAROL, 30 * MOR, 1, proof),
        (ALICE, 30 * MOR, 1, ()),
        (ALICE, 30 * MOR, 1, (*proof, ZERO_DIGEST)),
        (ALICE, 30 * MOR, 1, merkle_proof(CREDITS, BOB)),
    ):
        with refused("compute: bad proof"):
            world.compute("claim", *arguments)


def test_an_unknown_height_is_refused(world: World) -> None:
    with refused("compute: unknown height"):
        world.compute("claim", ALICE, 1, 1, ())
    world.submit(world.header(1, {}))
    with refused("compute: unknown height"):
        world.compute("claim", ALICE, 0, 1, ())


def test_a_tree_that_credits_more_than_its_header_does_not_pay_it(world: World) -> None:
    world.submit(world.header(1, CREDITS, total_credited=Uint256(30 * MOR)))
    world.claim(CREDITS, ALICE, 1)
    with refused("compute: over credit"):
        world.claim(CREDITS, BOB, 1)


def test_claimable_says_what_claim_would_pay(world: World) -> None:
    proof = merkle_proof(CREDITS, ALICE)
    assert world.compute("claimable", ALICE, 30 * MOR, 1, proof) == 0
    world.submit(world.header(1, CREDITS))
    assert world.compute("claimable", ALICE, 30 * MOR, 1, proof) == 30 * MOR
    assert world.compute("claimable", ALICE, 30 * MOR + 1, 1, proof) == 0
    world.claim(CREDITS, ALICE, 1)
    assert world.compute("claimable", ALICE, 30 * MOR, 1, proof) == 0


# both at once


def claim_with(world: World, header: object, provider: Address, credit: dict[Address, int]) -> int:
    signed = certificate(header, 0, world.sign(header))  # type: ignore[arg-type]  # a BatchHeader
    arguments = (*signed, provider, credit[provider], merkle_proof(credit, provider))
    return int(world.compute("claim_with_certificate", *arguments, sender=provider))


def test_certificate_and_claim_in_one(world: World) -> None:
    assert claim_with(world, world.header(1, CREDITS), ALICE, CREDITS) == 30 * MOR
    assert world.compute("latest_height") == 1


def test_the_second_provider_of_a_batch_just_claims(world: World) -> None:
    header = world.header(1, CREDITS)
    claim_with(world, header, ALICE, CREDITS)
    assert claim_with(world, header, BOB, CREDITS) == CREDITS[BOB]


def test_a_submitted_height_is_claimed_after_a_newer_one(world: World) -> None:
    header = world.header(1, CREDITS)
    world.submit(header)
    world.submit(world.header(2, CREDITS))
    assert claim_with(world, header, ALICE, CREDITS) == 30 * MOR


def test_a_height_that_was_skipped_is_refused(world: World) -> None:
    world.submit(world.header(2, CREDITS))
    with refused("compute: old height"):
        claim_with(world, world.header(1, CREDITS), ALICE, CREDITS)


def test_another_batch_at_a_submitted_height_pays_only_what_was_accepted(world: World) -> None:
    world.submit(world.header(1, CREDITS))
    forged = {CAROL: 40 * MOR}
    with refused("compute: bad proof"):
        claim_with(world, world.header(1, forged), CAROL, forged)


def test_a_bad_claim_takes_its_certificate_back(world: World) -> None:
    header = world.header(1, CREDITS)
    arguments = (*certificate(header, 0, world.sign(header)), ALICE, 1, merkle_proof(CREDITS, ALICE))
    with refused("compute: bad proof"):
        world.compute("claim_with_certificate", *arguments)
    assert world.compute("latest_height") == 0


def test_a_bad_certificate_pays_nothing(world: World) -> None:
    header = world.header(1, CREDITS)
    arguments = (*certificate(header, 0, []), ALICE, CREDITS[ALICE], merkle_proof(CREDITS, ALICE))
    with refused("compute: no quorum"):
        world.compute("claim_with_certificate", *arguments)


def test_64_members_sign(world: World) -> None:
    crowd = World([10 + number for number in range(64)])
    header = crowd.header(1, CREDITS)
    crowd.submit(header)
    assert crowd.compute("latest_height") == 1


def test_the_contract_needs_a_token_and_a_registry(world: World) -> None:
    for token, registry, reason in (
        (ZERO_ADDRESS, CAROL, "compute: zero token"),
        (CAROL, ZERO_ADDRESS, "compute: zero registry"),
    ):
        with refused(reason):
            world.chain.deploy("compute", *compute_arguments(token, registry, world.economics, ZERO_ADDRESS, 0))


PROVIDERS = [ALICE, BOB, CAROL]


class Payouts(RuleBasedStateMachine):
    """Batches, payments and endowments in any order, against a ledger of plain dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.received = FUNDS
        self.height = 0
        self.history: dict[int, dict[Address, int]] = {}
        self.paid = dict.fromkeys(PROVIDERS, 0)

    @property
    def credited(self) -> dict[Address, int]:
        return self.history.get(self.height, dict.fromkeys(PROVIDERS, 0))

    @rule(provider=st.sampled_from(PROVIDERS), amount=st.integers(0, 4_000 * MOR), gap=st.integers(1, 3))
    def credit(self, provider: Address, amount: int, gap: int) -> None:
        credited = self.credited | {provider: self.credited[provider] + amount}
        header = self.world.header(self.height + gap, credited)
        if sum(credited.values()) > self.received:
            with refused("compute: not funded"):
                self.world.submit(header)
        else:
            self.world.submit(header)
            self.height += gap
            self.history[self.height] = credited

    @rule(provider=st.sampled_from(PROVIDERS), data=st.data())
    def claim(self, provider: Address, data: st.DataObject) -> None:
        if not self.history:
            return
        height = data.draw(st.sampled_from(sorted(self.history)))
        credited = self.history[height]
        if credited[provider] > self.paid[provider]:
            assert self.world.claim(credited, provider, height) == credited[provider] - self.paid[provider]
            self.paid[provider] = credited[provider]
        else:
            with refused("compute: nothing to claim"):
                self.world.claim(credited, provider, height)

    @rule(amount=st.integers(1, 5_000 * MOR))
    def endow(self, amount: int) -> None:
        self.world.mor("mint", self.world.compute.address, amount)
        self.received += amount

    @invariant()
    def s33_providers_hold_exactly_what_they_were_paid(self) -> None:
        assert {provider: self.world.balance(provider) for provider in PROVIDERS} == self.paid
        assert {provider: self.world.compute("paid", provider) for provider in PROVIDERS} == self.paid
        assert self.world.compute("paid_total") == sum(self.paid.values())

    @invariant()
    def s35_solvent(self) -> None:
        owed = self.world.compute("credited_total") - self.world.compute("paid_total")
        assert 0 <= owed <= self.world.balance(self.world.compute.address)


TestPayouts = Payouts.TestCase
TestPayouts.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)


def test_a_failed_transfer_pays_nothing() -> None:
    """A token that answers false, as some do instead of reverting."""
    world = World()
    false_code = bytes.fromhex("5f5f5260205ff3")  # PUSH0 PUSH0 MSTORE, RETURN 32 zero bytes
    world.submit(world.header(1, CREDITS))
    world.chain.env.set_code("0x" + world.mor.address.hex(), false_code)
    with refused("compute: transfer failed"):
        world.claim(CREDITS, ALICE, 1)
    assert isinstance(world.compute, Contract)
    assert world.compute("paid", ALICE) == 0
