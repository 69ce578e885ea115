"""Evidence against a member, as the registry takes it: what convicts, what doesn't, and where the stake goes."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.tendermint.evidence import accuse
from contracts.artifacts import load_artifact
from contracts.bindings import evidence
from contracts.errors import EvidenceMismatch, SignatureInvalid
from contracts.signing import Key
from contracts.typed_data import ZERO_DIGEST, Address, Digest, Domain
from gossip.messages.base import Signed, sign
from gossip.messages.committee import HandOver, Precommit, Prevote, Proposal
from testnet.evm import Refused
from tests.contracts.local_chain import TERMS, UNBONDING_S, World, refused

FINDER = Address(b"\xf1" * 20)
ONE, TWO = Digest(b"\x01" * 32), Digest(b"\x02" * 32)
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

Pair = tuple[Signed[Any], Signed[Any]]
Offence = Callable[[World, Key], Pair]
OffenceWith = Callable[[World, Key, tuple[Digest, Digest]], Pair]


def proposals(world: World, key: Key, values: tuple[Digest, Digest] = (ONE, TWO)) -> Pair:
    one, two = (sign(Proposal(7, 2, 0, value, key.address), key, world.domain) for value in values)
    return one, two


def prevotes(world: World, key: Key, values: tuple[Digest, Digest] = (ONE, TWO)) -> Pair:
    one, two = (sign(Prevote(7, 2, valid_round, value), key, world.domain) for valid_round, value in enumerate(values))
    return one, two


def precommits(world: World, key: Key, values: tuple[Digest, Digest] = (ONE, TWO)) -> Pair:
    one, two = (sign(Precommit(7, 2, value, world.root), key, world.domain) for value in values)
    return one, two


def slash(world: World, member: Address, pair: Pair) -> int:
    return int(world.registry("slash", *evidence(member, *pair), sender=FINDER))


def stake_and_key(world: World, stake: int) -> Key:
    return next(key for key in world.keys if world.committee.weight(key.address) == stake)


EVERY_KIND = pytest.mark.parametrize("offence", [proposals, prevotes, precommits])


@EVERY_KIND
def test_an_equivocator_loses_everything_and_the_finder_gets_its_part(world: World, offence: Offence) -> None:
    key = stake_and_key(world, 400)
    assert slash(world, key.address, offence(world, key)) == 20
    assert world.balance(FINDER) == 20
    assert world.registry("stake_of", key.address) == 0
    assert world.registry("unbonding", key.address)[0] == 0
    assert world.registry("is_slashed", key.address)
    assert world.registry("forfeited_total") == 380
    assert world.balance(world.registry.address) == 600 + 380
    assert "0x" + key.address.hex() not in world.registry("candidates")[0]
    with refused("registry: nothing to withdraw"):
        world.registry("withdraw", sender=key.address)


def test_a_token_that_does_not_pay_the_finder_leaves_the_member_unpunished(world: World) -> None:
    key = stake_and_key(world, 400)
    token = "0x" + world.mor.address.hex()
    code = world.chain.env.get_code(token)
    world.chain.env.set_code(token, bytes.fromhex("5f5f5260205ff3"))  # answers false to everything
    with refused("registry: transfer failed"):
        slash(world, key.address, prevotes(world, key))
    world.chain.env.set_code(token, code)
    assert world.registry("stake_of", key.address) == 400
    assert slash(world, key.address, prevotes(world, key)) == 20


@EVERY_KIND
def test_what_the_core_calls_evidence_convicts_on_chain(world: World, offence: Offence) -> None:
    key = world.keys[1]
    first, second = offence(world, key)
    found = accuse(second, first, world.committee, world.domain)
    assert slash(world, key.address, (found.first, found.second)) > 0


@EVERY_KIND
def test_a_vote_for_nil_and_one_for_a_batch_are_an_offence(world: World, offence: OffenceWith) -> None:
    key = world.keys[1]
    assert slash(world, key.address, offence(world, key, (ZERO_DIGEST, ONE))) > 0


@EVERY_KIND
@pytest.mark.parametrize("value", [ZERO_DIGEST, ONE])
def test_the_same_batch_twice_is_no_offence(world: World, offence: OffenceWith, value: Digest) -> None:
    """Prevotes for one batch may differ in their valid round; nil may be voted again and again."""
    key = world.keys[1]
    with refused("registry: same batch"):
        slash(world, key.address, offence(world, key, (value, value)))


@EVERY_KIND
def test_an_offence_is_punished_once(world: World, offence: OffenceWith) -> None:
    key = world.keys[1]
    first, second = offence(world, key, (ONE, TWO))
    slash(world, key.address, (first, second))
    with refused("registry: already punished"):
        slash(world, key.address, (second, first))
    with refused("registry: already punished"):
        slash(world, key.address, offence(world, key, (ONE, Digest(b"\x03" * 32))))


def test_who_has_lost_everything_is_not_slashed_for_the_next_offence(world: World) -> None:
    key = world.keys[1]
    slash(world, key.address, precommits(world, key))
    with refused("registry: nothing to slash"):
        slash(world, key.address, prevotes(world, key))


def test_a_slashed_member_never_stakes_again(world: World) -> None:
    key = world.keys[1]
    slash(world, key.address, precommits(world, key))
    with refused("registry: slashed"):
        world.stake(key.address, 1_000)


def test_a_strangers_two_votes_cost_nothing(world: World) -> None:
    stranger = Key(b"\x66" * 32)
    with refused("registry: nothing to slash"):
        slash(world, stranger.address, precommits(world, stranger))


@EVERY_KIND
def test_nobody_is_convicted_by_anothers_signatures(world: World, offence: Offence) -> None:
    accused, culprit = world.keys[:2]
    with refused("registry: not the signer"):
        slash(world, accused.address, offence(world, culprit))


def test_two_members_votes_convict_neither(world: World) -> None:
    first, _ = precommits(world, world.keys[0])
    _, second = precommits(world, world.keys[1])
    for key in world.keys[:2]:
        with refused("registry: not the signer"):
            slash(world, key.address, (first, second))


@pytest.mark.parametrize("change", [{"height": 8}, {"round": 3}, {"committee_root": Digest(b"\x0f" * 32)}])
def test_votes_of_two_places_are_no_evidence(world: World, change: dict[str, object]) -> None:
    """The client sees it at once; put together by hand, the second signature recovers to a stranger."""
    key = world.keys[1]
    first, second = precommits(world, key)
    second = sign(msgspec.structs.replace(second.payload, **change), key, world.domain)
    with pytest.raises(EvidenceMismatch, match=next(iter(change))):
        evidence(key.address, first, second)
    misnamed = Signed(precommits(world, key)[1].payload, second.signature)
    with refused("registry: not the signer"):
        slash(world, key.address, (first, misnamed))


def test_votes_of_two_kinds_are_no_evidence(world: World) -> None:
    key = world.keys[1]
    with pytest.raises(EvidenceMismatch, match="Prevote"):
        evidence(key.address, prevotes(world, key)[0], precommits(world, key)[1])
    hand_over = sign(HandOver(1, 1, world.root, ONE), key, world.domain)
    with pytest.raises(EvidenceMismatch, match="HandOver"):
        evidence(key.address, hand_over, hand_over)


@pytest.mark.parametrize("stranger", [{"chain_id": 1}, {"contract": FINDER}])
@EVERY_KIND
def test_votes_on_another_network_are_no_offence_here(
    world: World, offence: Offence, stranger: dict[str, object]
) -> None:
    key, here = world.keys[1], world.domain
    world.domain = Domain(**({"chain_id": here.chain_id, "contract": here.contract} | stranger))  # type: ignore[arg-type]  # of mixed types
    pair = offence(world, key)
    with refused("registry: not the signer"):
        slash(world, key.address, pair)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (1, 0, "registry: unknown kind"),
        (1, 4, "registry: unknown kind"),
        (4, ONE, "registry: no committee is signed"),
    ],
)
def test_evidence_has_one_form(world: World, place: int, value: object, reason: str) -> None:
    arguments = list(evidence(world.keys[1].address, *prevotes(world, world.keys[1])))
    arguments[place] = value
    with refused(reason):
        world.registry("slash", *arguments)


def test_a_precommit_has_no_valid_round(world: World) -> None:
    arguments: list[Any] = list(evidence(world.keys[1].address, *precommits(world, world.keys[1])))
    value, _, signature = arguments[-1]
    arguments[-1] = (value, 1, signature)
    with refused("registry: precommit with a valid round"):
        world.registry("slash", *arguments)


def test_a_signature_that_recovers_to_nobody_convicts_nobody(world: World) -> None:
    key = world.keys[1]
    first, second = precommits(world, key)
    for broken in (b"\xff" * 32 + second.signature[32:], bytes(64) + b"\x1b"):
        with refused("registry: bad signature"):
            slash(world, key.address, (first, Signed(second.payload, broken)))  # type: ignore[arg-type]  # plain bytes


def test_the_zero_address_is_not_slashed_by_a_bad_signature(world: World) -> None:
    *place, first, second = evidence(world.keys[1].address, *precommits(world, world.keys[1]))
    with refused("registry: not the signer"):
        world.registry("slash", bytes(20), *place[1:], first, second)


def test_a_high_s_convicts_nobody(world: World) -> None:
    key = world.keys[1]
    first, second = precommits(world, key)
    r, s, v = second.signature[:32], int.from_bytes(second.signature[32:64], "big"), second.signature[64]
    twin = r + (ORDER - s).to_bytes(32, "big") + bytes([55 - v])
    with pytest.raises(SignatureInvalid):  # it does not even fit into the compact form
        slash(world, key.address, (first, Signed(second.payload, twin)))  # type: ignore[arg-type]  # plain bytes
    just_high = r + (ORDER // 2 + 1).to_bytes(32, "big") + bytes([v])
    with refused("registry: high s"):
        slash(world, key.address, (first, Signed(second.payload, just_high)))  # type: ignore[arg-type]  # plain bytes


# stake that is leaving


def test_stake_that_unbonds_is_lost_as_well(world: World) -> None:
    key = stake_and_key(world, 400)
    world.registry("unstake", 150, sender=key.address)
    assert slash(world, key.address, precommits(world, key)) == 20
    world.hand_over([(world.keys[0].address, 1)])
    world.chain.pass_time(2 * UNBONDING_S)
    with refused("registry: nothing to withdraw"):
        world.registry("withdraw", sender=key.address)


def test_stake_stays_slashable_until_it_is_withdrawn(world: World) -> None:
    leaver, stayer = stake_and_key(world, 400), stake_and_key(world, 300)
    world.registry("unstake", 400, sender=leaver.address)
    world.hand_over([(stayer.address, 300)])
    world.chain.pass_time(5 * UNBONDING_S)
    assert slash(world, leaver.address, precommits(world, leaver)) == 20


def test_what_is_withdrawn_is_out_of_reach(world: World) -> None:
    leaver, stayer = stake_and_key(world, 400), stake_and_key(world, 300)
    pair = precommits(world, leaver)
    world.registry("unstake", 400, sender=leaver.address)
    world.hand_over([(stayer.address, 300)])
    world.chain.pass_time(UNBONDING_S)
    world.registry("withdraw", sender=leaver.address)
    with refused("registry: nothing to slash"):
        slash(world, leaver.address, pair)


def test_a_member_with_weight_cannot_withdraw_however_long_ago_it_unstaked(world: World) -> None:
    leaver, stayer = stake_and_key(world, 400), stake_and_key(world, 300)
    world.registry("unstake", 400, sender=leaver.address)
    world.chain.pass_time(10 * UNBONDING_S)
    with refused("registry: still in the committee"):
        world.registry("withdraw", sender=leaver.address)
    world.hand_over([(stayer.address, 300)])
    world.chain.pass_time(UNBONDING_S - 1)
    with refused("registry: still bonded"):
        world.registry("withdraw", sender=leaver.address)
    world.chain.pass_time(1)
    world.registry("withdraw", sender=leaver.address)
    assert world.balance(leaver.address) == 400


def test_who_serves_again_waits_again(world: World) -> None:
    leaver, stayer = stake_and_key(world, 400), stake_and_key(world, 300)
    world.registry("unstake", 400, sender=leaver.address)
    world.hand_over(sorted([(stayer.address, 300), (leaver.address, 400)]))
    world.chain.pass_time(2 * UNBONDING_S)
    with refused("registry: still in the committee"):
        world.registry("withdraw", sender=leaver.address)


# shares


def test_what_is_left_of_a_part_unbonds() -> None:
    world = World(terms=(UNBONDING_S, 30, 10, *TERMS[3:]))
    key = stake_and_key(world, 400)
    world.registry("unstake", 5, sender=key.address)
    assert slash(world, key.address, precommits(world, key)) == 12
    assert world.registry("unbonding", key.address)[0] == 280
    assert "0x" + key.address.hex() not in world.registry("candidates")[0]
    assert slash(world, key.address, prevotes(world, key)) == 8
    assert world.registry("unbonding", key.address)[0] == 280 - 84
    world.hand_over([(world.keys[0].address, 1)])
    world.chain.pass_time(UNBONDING_S)
    world.registry("withdraw", sender=key.address)
    assert world.balance(key.address) == 196
    assert world.registry("forfeited_total") == 120 + 84 - 20


def test_another_place_is_another_offence() -> None:
    world = World(terms=(UNBONDING_S, 10, 10, *TERMS[3:]))
    key = stake_and_key(world, 400)
    for height, round_ in ((7, 2), (7, 3), (8, 2)):
        votes = [sign(Precommit(height, round_, value, world.root), key, world.domain) for value in (ONE, TWO)]
        assert slash(world, key.address, (votes[0], votes[1])) > 0
    assert slash(world, key.address, prevotes(world, key)) > 0
    assert slash(world, key.address, proposals(world, key)) > 0


@given(st.integers(1, 100), st.integers(0, 100), st.integers(1, 10**24), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_no_wei_appears_or_vanishes(slash_percent: int, finder_percent: int, stake: int, leaving: int) -> None:
    world = World((stake, 5), terms=(UNBONDING_S, slash_percent, finder_percent, *TERMS[3:]))
    key = world.keys[0]
    if unstaked := stake * leaving // 100:
        world.registry("unstake", unstaked, sender=key.address)
    forfeited = stake * slash_percent // 100
    if forfeited == 0:
        with refused("registry: nothing to slash"):
            slash(world, key.address, precommits(world, key))
        return
    reward = slash(world, key.address, precommits(world, key))
    assert reward == forfeited * finder_percent // 100 == world.balance(FINDER)
    left = world.registry("unbonding", key.address)[0]
    assert left == stake - forfeited
    assert world.registry("forfeited_total") == forfeited - reward
    assert world.balance(world.registry.address) == 5 + left + forfeited - reward


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        ((0, 100, 5, 1, 1), "registry: no unbonding"),
        ((1, 0, 5, 1, 1), "registry: slash percent"),
        ((1, 101, 5, 1, 1), "registry: slash percent"),
        ((1, 100, 101, 1, 1), "registry: finder percent"),
        ((1, 100, 5, 0, 1), "registry: no rescue delay"),
        ((1, 100, 5, 1, 0), "registry: no rescue delay"),
    ],
)
def test_terms_that_make_no_sense_are_refused(world: World, terms: tuple[int, ...], reason: str) -> None:
    with refused(reason):
        world.chain.deploy("registry", world.mor.address, *terms)


# the running epoch and the log


def test_the_running_epoch_keeps_its_weight(world: World) -> None:
    """The weight is part of a signed root; it ends with the next draw."""
    key = stake_and_key(world, 400)
    slash(world, key.address, precommits(world, key))
    assert world.registry("weigh", world.root, (key.address,)) == (400, 1_000)
    stayer = stake_and_key(world, 300)
    world.hand_over([(stayer.address, 300)], signers=[stayer, key])
    with refused("registry: unknown signer"):
        world.registry("weigh", world.root, (key.address,))


def test_a_slashing_is_logged(world: World) -> None:
    key = stake_and_key(world, 400)
    data = load_artifact("registry").encode_call("slash", *evidence(key.address, *precommits(world, key)))
    [(topics, body)] = world.registry.logs(
        data, "Slashed(address,address,uint8,uint64,uint64,uint256,uint256)", sender=FINDER
    )
    assert topics == [key.address.rjust(32, b"\0"), FINDER.rjust(32, b"\0")]
    assert body == b"".join(value.to_bytes(32, "big") for value in (3, 7, 2, 400, 20))


# binding


def test_the_compute_contract_is_bound_once_by_the_deployer(world: World) -> None:
    registry = world.chain.deploy("registry", world.mor.address, *TERMS)
    compute = world.deploy_compute(registry.address)
    with refused("registry: not bound"):
        registry("open_epoch")
    with refused("registry: not the opener"):
        registry("bind", compute.address, sender=FINDER)
    with refused("registry: not its registry"):
        registry("bind", world.compute.address)
    with pytest.raises(Refused):  # nothing answers there
        registry("bind", FINDER)
    registry("bind", compute.address)
    assert registry("compute") == "0x" + compute.address.hex()
    with refused("registry: already bound"):
        registry("bind", compute.address)


def test_before_binding_nobody_is_slashed(world: World) -> None:
    world.registry = world.chain.deploy("registry", world.mor.address, *TERMS)
    key = world.keys[1]
    with refused("registry: not bound"):
        slash(world, key.address, precommits(world, key))
