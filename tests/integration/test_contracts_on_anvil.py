"""From deployment to payment on a real chain, and what the client makes of a chain that stalls or dies."""

import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
import pytest
import trio

from consensus.committee import Committee, Member
from contracts import client as client_module
from contracts.anvil import CHAIN_ID, AnvilChain, anvil
from contracts.bindings import Compute, EmissionSource, Mor, Registry
from contracts.budget import Economics, Schedule
from contracts.client import ChainClient
from contracts.errors import ChainUnavailable, TransactionReverted
from contracts.merkle import merkle_proof, merkle_root
from contracts.payout import PayoutOrder
from contracts.signing import Key
from contracts.typed_data import ZERO_DIGEST, Address, Digest, Domain, Uint256, digest
from gossip.messages.base import sign
from gossip.messages.committee import BatchHeader, HandOver, Precommit, batch_hash

CACHE_DIR = Path(__file__).parents[2] / ".cache" / "anvil"

MOR = 10**18
PROVIDER = Address(b"\xa1" * 20)
OTHER = Address(b"\xb0" * 20)

T = TypeVar("T")


async def on_thread(function: Callable[..., T], *arguments: Any) -> T:
    with trio.fail_after(60):
        return await trio.to_thread.run_sync(function, *arguments)


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[AnvilChain]:
    async with anvil(CACHE_DIR, tmp_path / "anvil.log") as running:
        yield running


def economics_now() -> Economics:
    """Days of 1,000 s, the first of which has begun; a pool that allows all that these tests credit."""
    schedule = Schedule(3_456 * MOR, MOR, int(time.time()) - 100, 1_000)
    return Economics(schedule, schedule.payout_start_s, 1_000, 1_000, endowment_wei=100_000 * MOR)


def header_of(height: int, credit: dict[Address, int], committee_root: Digest, proposer: Address) -> BatchHeader:
    return BatchHeader(
        height=height,
        slot=height,
        day=0,
        parent=ZERO_DIGEST,
        body_root=ZERO_DIGEST,
        credit_root=merkle_root(credit),
        total_credited=Uint256(sum(credit.values())),
        bootstrap_credited=Uint256(0),
        state_root=ZERO_DIGEST,
        committee_root=committee_root,
        beacon=ZERO_DIGEST,
        reveal=ZERO_DIGEST,
        proposer=proposer,
    )


def signatures_of(header: BatchHeader, round_: int, keys: list[Key], domain: Domain) -> list[bytes]:
    value = digest(domain, Precommit(header.height, round_, batch_hash(header), header.committee_root))
    return [key.sign_digest(value) for key in sorted(keys, key=lambda key: key.address)]


def pay_a_provider(chain: AnvilChain, members: int) -> None:
    client = ChainClient(chain.url)
    assert client.chain_id() == CHAIN_ID == chain.chain_id
    deployer, *_ = chain.funded_keys
    keys = [Key(bytes([7, number]) * 16) for number in range(1, members + 1)]

    mor = Mor.deploy(client, deployer)
    registry = Registry.deploy(client, deployer, mor.address, 3_600)
    compute = Compute.deploy(client, deployer, mor.address, registry.address, economics_now())
    registry.bind(deployer, compute.address)
    mor.mint(deployer, compute.address, 10_000 * MOR)
    for number, key in enumerate(keys):
        client.pay(deployer, key.address, MOR)
        mor.mint(deployer, key.address, (number + 1) * MOR)
        mor.approve(key, registry.address, (number + 1) * MOR)
        registry.stake(key, (number + 1) * MOR)
    with pytest.raises(TransactionReverted, match="registry: not the opener"):
        registry.open_epoch(keys[0])
    registry.open_epoch(deployer)

    committee = Committee.of(1, [Member(key.address, (number + 1) * MOR) for number, key in enumerate(keys)])
    assert registry.epoch() == 1
    assert registry.committee(1) == [(member.address, member.stake) for member in committee.members]
    assert registry.committee_root() == committee.root

    credit = {PROVIDER: 3 * MOR + 5, OTHER: 2 * MOR}
    domain = Domain(chain.chain_id, compute.address)
    header = header_of(1, credit, committee.root, keys[0].address)
    signatures = signatures_of(header, 2, keys, domain)
    arguments: Any = {"provider": PROVIDER, "cumulative": credit[PROVIDER], "proof": merkle_proof(credit, PROVIDER)}

    with pytest.raises(TransactionReverted, match="compute: no quorum") as caught:
        compute.claim_with_certificate(deployer, header, 2, signatures[:1], **arguments)
    assert caught.value.reason == "compute: no quorum"

    before = client.balances(mor.address, [PROVIDER, compute.address])
    payment = compute.claim_with_certificate(deployer, header, 2, signatures, **arguments)
    print(f"\ncertificate + claim, {members} members, first ever: {payment.receipt.gas_used} gas")
    assert payment.amount == credit[PROVIDER]
    after = client.balances(mor.address, [PROVIDER, compute.address])
    assert [now - then for now, then in zip(after, before, strict=True)] == [credit[PROVIDER], -credit[PROVIDER]]

    proof = merkle_proof(credit, OTHER)
    assert compute.claimable(OTHER, 2 * MOR, 1, proof) == 2 * MOR
    claim = compute.claim(deployer, OTHER, 2 * MOR, 1, proof)
    print(f"claim alone: {claim.receipt.gas_used} gas")
    assert claim.amount == mor.balance_of(OTHER) == compute.paid(OTHER) == 2 * MOR
    assert compute.claimable(OTHER, 2 * MOR, 1, proof) == 0

    later = credit | {PROVIDER: 4 * MOR}
    second = header_of(2, later, committee.root, keys[1].address)
    arguments |= {"cumulative": 4 * MOR, "proof": merkle_proof(later, PROVIDER)}
    again = compute.claim_with_certificate(deployer, second, 0, signatures_of(second, 0, keys, domain), **arguments)
    print(f"certificate + claim, {members} members, from then on: {again.receipt.gas_used} gas")
    assert again.amount == MOR - 5

    third = header_of(3, later, committee.root, keys[0].address)
    receipt = compute.submit(deployer, third, 0, signatures_of(third, 0, keys, domain))
    print(f"certificate alone: {receipt.gas_used} gas")
    assert (compute.latest_height(), compute.credit_root(3)) == (3, merkle_root(later))
    assert compute.credited_total() == compute.paid_total() == 6 * MOR
    with pytest.raises(TransactionReverted, match="compute: old height"):
        compute.submit(deployer, third, 0, signatures_of(third, 0, keys, domain))
    assert compute.budget_left(0) == 3_456 * MOR - 6 * MOR
    assert (compute.pool(), compute.reserve()) == (99_994 * MOR, 0)

    provider = Key(b"\x5a" * 32)
    many = later | {provider.address: 7, Address(b"\xca" * 20): 9}
    fourth = header_of(4, many, committee.root, keys[0].address)
    compute.submit(deployer, fourth, 0, signatures_of(fourth, 0, keys, domain))
    order = PayoutOrder(provider.address, OTHER, compute.nonce_of(provider.address), int(time.time()) + 1_000)
    compute.set_receiver_by_order(deployer, order, provider.sign(order, domain))
    assert compute.receiver_of(provider.address) == OTHER
    credits = [(who, many[who], merkle_proof(many, who)) for who in many]
    paid = compute.claim_many(deployer, 4, credits)
    print(f"claims of {len(credits)} providers, 2 of them new: {paid.receipt.gas_used} gas")
    assert paid.amount == 16
    assert mor.balance_of(OTHER) == 2 * MOR + 7
    compute.set_receiver(deployer, PROVIDER)
    assert compute.receiver_of(deployer.address) == PROVIDER
    client.close()


def fetch_the_emission(chain: AnvilChain) -> None:
    """The pool is empty: a batch fetches what has been emitted, and nothing else has to."""
    client = ChainClient(chain.url)
    deployer, *_ = chain.funded_keys
    key = Key(b"\x07" * 32)
    mor = Mor.deploy(client, deployer)
    registry = Registry.deploy(client, deployer, mor.address, 3_600)
    economics = economics_now()
    schedule = msgspec.structs.replace(economics.schedule, payout_start_s=economics.genesis_s - 5_000)
    economics = msgspec.structs.replace(economics, schedule=schedule, endowment_wei=0)
    compute = Compute.deploy(client, deployer, mor.address, registry.address, economics)
    source = EmissionSource.deploy(client, deployer, mor.address, compute.address, schedule)
    mor.mint(deployer, source.address, 1_000_000 * MOR)
    compute.bind_source(deployer, source.address)
    registry.bind(deployer, compute.address)
    client.pay(deployer, key.address, MOR)
    mor.mint(deployer, key.address, 100)
    mor.approve(key, registry.address, 100)
    registry.stake(key, 100)
    registry.open_epoch(deployer)
    committee = Committee.of(1, [Member(key.address, 100)])
    credit = {PROVIDER: 1_000 * MOR}
    header = header_of(1, credit, committee.root, key.address)
    signatures = signatures_of(header, 0, [key], Domain(chain.chain_id, compute.address))
    assert mor.balance_of(compute.address) == 0
    assert source.due() >= economics.schedule.emitted(economics.genesis_s)
    arguments: Any = {"provider": PROVIDER, "cumulative": 1_000 * MOR, "proof": ()}
    assert compute.claim_with_certificate(deployer, header, 0, signatures, **arguments).amount == 1_000 * MOR
    before = mor.balance_of(compute.address)
    rpc(chain.url, "evm_increaseTime", 100)
    compute.pull(deployer)
    assert mor.balance_of(compute.address) > before
    client.close()


async def test_a_batch_fetches_the_emission_that_it_needs(chain: AnvilChain) -> None:
    await on_thread(fetch_the_emission, chain)


@pytest.mark.parametrize("members", [4, 7])
async def test_from_deployment_to_payment(chain: AnvilChain, members: int) -> None:
    await on_thread(pay_a_provider, chain, members)


def outlive_a_committee(chain: AnvilChain) -> None:
    """Slash, hand over, and rescue when nobody answers any more, all through the client."""
    client = ChainClient(chain.url)
    deployer, finder, *_ = chain.funded_keys
    keys = sorted((Key(bytes([8, number]) * 16) for number in range(1, 5)), key=lambda key: key.address)
    culprit, *honest = keys
    mor = Mor.deploy(client, deployer)
    registry = Registry.deploy(client, deployer, mor.address, 60, rescue_delay_s=3_600, rescue_notice_s=600)
    compute = Compute.deploy(client, deployer, mor.address, registry.address, economics_now())
    registry.bind(deployer, compute.address)
    for key in keys:
        client.pay(deployer, key.address, MOR)
        mor.mint(deployer, key.address, 100)
        mor.approve(key, registry.address, 100)
        registry.stake(key, 100)
    registry.open_epoch(deployer)
    first = Committee.of(1, [Member(key.address, 100) for key in keys])
    domain = Domain(chain.chain_id, compute.address)

    registry.unstake(culprit, 30)
    votes = [sign(Precommit(1, 0, Digest(value * 32), first.root), culprit, domain) for value in (b"1", b"2")]
    slashed = registry.slash(finder, culprit.address, *votes)
    print(f"\nslashing: {slashed.gas_used} gas")
    assert registry.is_slashed(culprit.address)
    assert not registry.is_slashed(honest[0].address)
    assert (mor.balance_of(finder.address), registry.forfeited_total(), registry.unbonding(culprit.address)) == (
        5,
        95,
        0,
    )
    assert [address for address, _ in registry.candidates()] == [key.address for key in honest]
    with pytest.raises(TransactionReverted, match="registry: already punished"):
        registry.slash(finder, culprit.address, *votes)

    following = Committee.of(2, [Member(key.address, 100) for key in honest])
    word = digest(domain, HandOver(1, 1, first.root, following.root))
    members = [(member.address, member.stake) for member in following.members]
    with pytest.raises(TransactionReverted, match="registry: no quorum"):
        registry.hand_over(finder, 1, members, [honest[0].sign_digest(word)])
    handed = registry.hand_over(finder, 1, members, [key.sign_digest(word) for key in honest])
    print(f"hand-over, 4 members to 3: {handed.gas_used} gas")
    assert (registry.epoch(), registry.latest_day(), registry.committee(2)) == (2, 1, members)
    assert registry.committee_root() == following.root

    with pytest.raises(TransactionReverted, match="registry: committee is alive"):
        registry.announce_rescue(finder)
    rpc(chain.url, "evm_increaseTime", 3_600)
    rpc(chain.url, "evm_mine")
    registry.announce_rescue(finder)
    assert registry.announced_s() >= registry.progress_s() + 3_600
    with pytest.raises(TransactionReverted, match="registry: too early"):
        registry.rescue(finder)
    rpc(chain.url, "evm_increaseTime", 600)
    rpc(chain.url, "evm_mine")
    registry.rescue(finder)
    assert (registry.epoch(), registry.committee(3)) == (3, members)
    client.close()


async def test_a_committee_is_slashed_relieved_and_rescued(chain: AnvilChain) -> None:
    await on_thread(outlive_a_committee, chain)


def read_snapshots(chain: AnvilChain) -> None:
    client = ChainClient(chain.url)
    key = chain.funded_keys[0]
    mor = Mor.deploy(client, key)
    owners = [Address(number.to_bytes(20, "big")) for number in range(1, 1_502)]
    mor.mint(key, owners[-1], 7)
    block = client.block_number()
    mor.mint(key, owners[0], 5)

    old = client.snapshot(mor.address, owners, block)
    assert (old.block, old.supply_wei, len(old.balances)) == (block, 7, 1_501)
    assert (old.balances[0], old.balances[-1]) == (0, 7)
    assert client.balances(mor.address, owners[:2]) == [5, 0]
    assert client.total_supply(mor.address) == 12
    assert client.total_supply(mor.address, block) == mor.total_supply(block) == 7
    assert client.block_timestamp(block) <= client.block_timestamp()
    assert client.block_hash(block) != client.block_hash()
    with pytest.raises(TransactionReverted, match="snapshot"):
        client.total_supply(owners[0])
    client.close()


async def test_a_snapshot_is_of_one_block(chain: AnvilChain) -> None:
    await on_thread(read_snapshots, chain)


def send_side_by_side(chain: AnvilChain) -> None:
    client = ChainClient(chain.url)
    key = chain.funded_keys[0]
    mor = Mor.deploy(client, key)
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda amount: mor.mint(key, PROVIDER, amount), range(1, 25)))
    assert len({receipt.tx_hash for receipt in receipts}) == 24
    assert mor.balance_of(PROVIDER) == sum(range(1, 25))
    client.close()


async def test_one_key_in_many_threads_uses_each_nonce_once(chain: AnvilChain) -> None:
    await on_thread(send_side_by_side, chain)


def rpc(url: str, method: str, *parameters: object) -> Any:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
    return httpx.post(url, json=body, trust_env=False).json()["result"]


def pending_fee(url: str) -> int:
    content = rpc(url, "txpool_content")["pending"]
    return max((int(tx["maxFeePerGas"], 16) for nonces in content.values() for tx in nonces.values()), default=0)


def raise_the_fee(chain: AnvilChain) -> None:
    client = ChainClient(chain.url)
    key = chain.funded_keys[0]
    mor = Mor.deploy(client, key)
    rpc(chain.url, "evm_setAutomine", False)
    with ThreadPoolExecutor(1) as pool:
        receipt = pool.submit(mor.mint, key, PROVIDER, 5)
        seen: list[int] = []
        pause = threading.Event()
        while len(seen) < 3 and not receipt.done():
            fee = pending_fee(chain.url)
            if fee and fee not in seen:
                seen.append(fee)
            pause.wait(0.01)
        rpc(chain.url, "evm_mine")
        assert receipt.result(30).gas_used > 0
    assert all(8 * later >= 9 * earlier for earlier, later in itertools.pairwise(seen))
    assert len(seen) == 3
    assert mor.balance_of(PROVIDER) == 5
    rpc(chain.url, "evm_setAutomine", True)
    mor.mint(key, PROVIDER, 1)
    client.close()


async def test_a_stuck_transaction_is_sent_again_for_more(chain: AnvilChain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "STUCK_S", 0.2)
    await on_thread(raise_the_fee, chain)


def revert_when_mined(chain: AnvilChain) -> None:
    """A transaction that looked fine when it was sent, in a block whose time is too early for it."""
    client = ChainClient(chain.url)
    deployer, *_ = chain.funded_keys
    mor = Mor.deploy(client, deployer)
    registry = Registry.deploy(client, deployer, mor.address, 60)
    mor.mint(deployer, deployer.address, 10)
    mor.approve(deployer, registry.address, 10)
    registry.stake(deployer, 10)
    registry.unstake(deployer, 10)
    rpc(chain.url, "evm_setAutomine", False)
    rpc(chain.url, "evm_increaseTime", 100)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(registry.withdraw, deployer)
        pause = threading.Event()
        while not future.done() and not rpc(chain.url, "txpool_content")["pending"]:
            pause.wait(0.01)
        rpc(chain.url, "evm_setNextBlockTimestamp", client.block_timestamp() + 1)
        rpc(chain.url, "evm_mine")
        error = future.exception(30)
    assert isinstance(error, TransactionReverted)
    assert error.reason == "registry: still bonded"
    client.close()


async def test_a_transaction_that_reverts_when_mined_tells_why(chain: AnvilChain) -> None:
    await on_thread(revert_when_mined, chain)


async def test_a_chain_that_died_is_unavailable(tmp_path: Path) -> None:
    async with anvil(CACHE_DIR, tmp_path / "anvil.log", accounts=1, block_time_s=1) as chain:
        client = ChainClient(chain.url, timeout_s=5)
        assert len(chain.funded_keys) == 1
        mor = await on_thread(Mor.deploy, client, chain.funded_keys[0])
    with pytest.raises(ChainUnavailable, match=chain.url):
        await on_thread(client.block_number)
    with pytest.raises(ChainUnavailable, match=chain.url):
        await on_thread(mor.balance_of, PROVIDER)
    with pytest.raises(ChainUnavailable, match=chain.url):
        await on_thread(mor.mint, chain.funded_keys[0], PROVIDER, 1)
    client.close()
