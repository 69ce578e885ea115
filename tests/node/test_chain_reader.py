"""The chain as trio sees it, against a scripted chain: deadlines, memory, one request for many."""

import itertools
import threading
from collections.abc import Sequence

import pytest
import structlog
import trio
import trio.testing

from contracts.errors import ChainUnavailable, TransactionReverted
from contracts.signing import Key
from contracts.typed_data import Address, Digest
from gossip.messages.committee import BatchHeader, CommitCertificate, HandOverCertificate
from gossip.messages.evidence import Equivocation
from node.chain import BLOCKS_KEPT, ChainReader, ClaimPaid, Epoch, Slashing, until_available
from node.errors import ChainMismatch
from tests.node.builders import PROVIDER, batch

URL = "http://127.0.0.1:1"


def address(number: int) -> Address:
    return Address(number.to_bytes(20, "big"))


class ScriptedChain:
    """Answers from a script. A balance is the address's number times the block."""

    def __init__(self) -> None:
        self.asked: list[tuple[int | None, int]] = []
        self.down = False
        self.gate: threading.Event | None = None

    def chain_id(self) -> int:
        return 77_101

    def snapshot(self, addresses: Sequence[Address], block: int | None) -> tuple[int, int, Sequence[int]]:
        self.asked.append((block, len(addresses)))
        if self.gate is not None:
            self.gate.wait(10)
        if self.down:
            raise ChainUnavailable(URL, "refused")
        number = 99 if block is None else block
        return number, 10**25 + number, [int.from_bytes(item, "big") * number for item in addresses]

    def candidates(self, block: int) -> Sequence[tuple[Address, int]]:
        return [(address(1), block)]

    def epoch(self) -> int:
        return 2

    def epochs(self, after: int) -> Sequence[Epoch]:
        return [Epoch(number, ((address(1), 5),), is_rescue=False) for number in range(after + 1, 3)]

    def hand_over(
        self,
        key: Key,  # noqa: ARG002  # the seam's shape, as below
        certificate: HandOverCertificate,  # noqa: ARG002
        members: Sequence[tuple[Address, int]],  # noqa: ARG002
    ) -> Digest:
        return Digest(bytes(32))

    def paid(self, provider: Address) -> int:  # noqa: ARG002  # the seam's shape
        if self.down:
            raise ChainUnavailable(URL, "refused")
        return 5

    def claim(
        self,
        key: Key,  # noqa: ARG002  # the seam's shape, as below
        header: BatchHeader,  # noqa: ARG002
        certificate: CommitCertificate,  # noqa: ARG002
        *,
        provider: Address,  # noqa: ARG002
        cumulative: int,
        proof: Sequence[Digest],  # noqa: ARG002
    ) -> ClaimPaid:
        if cumulative == 0:
            raise TransactionReverted("compute.claim", "compute: nothing to claim")
        return ClaimPaid(cumulative - 5, Digest(bytes(32)), 147_000)

    def is_slashed(self, member: Address) -> bool:
        if self.down:
            raise ChainUnavailable(URL, "refused")
        return member == address(13)

    def slash(self, key: Key, member: Address, evidence: Equivocation) -> Slashing:  # noqa: ARG002  # the seam's shape
        if member == address(13):
            raise TransactionReverted("registry.slash", "registry: already punished")
        return Slashing(50, Digest(bytes(32)), 90_000)


@pytest.fixture
def chain() -> ScriptedChain:
    return ScriptedChain()


@pytest.fixture
def reader(chain: ScriptedChain) -> ChainReader:
    return ChainReader(chain, URL, timeout_s=30)


async def test_balances_are_remembered_through_an_outage(chain: ScriptedChain, reader: ChainReader) -> None:
    assert await reader.balance(address(3), 10) == 30
    chain.down = True
    assert await reader.balance(address(3), 10) == 30
    assert await reader.supply(10) == 10**25 + 10
    with pytest.raises(ChainUnavailable, match=URL):
        await reader.balance(address(4), 10)
    with pytest.raises(ChainUnavailable):
        await reader.supply(11)


async def test_many_callers_share_few_requests(chain: ScriptedChain, reader: ChainReader) -> None:
    found: dict[int, int] = {}

    async def ask(number: int) -> None:
        found[number] = await reader.balance(address(number), 7)

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(ask, number)
    assert found == {number: 7 * number for number in range(50)}
    assert len(chain.asked) <= 3


async def test_blocks_are_not_mixed_up_and_old_ones_are_forgotten(chain: ScriptedChain, reader: ChainReader) -> None:
    for block in range(1, BLOCKS_KEPT + 2):
        assert await reader.balances([address(1), address(2)], block) == {address(1): block, address(2): 2 * block}
    requests = len(chain.asked)
    await reader.balance(address(1), BLOCKS_KEPT + 1)
    assert len(chain.asked) == requests
    await reader.balance(address(1), 1)
    assert len(chain.asked) == requests + 1


async def test_a_failed_request_is_asked_again(chain: ScriptedChain, reader: ChainReader) -> None:
    chain.down = True
    with pytest.raises(ChainUnavailable):
        await reader.balance(address(1), 1)
    chain.down = False
    assert await reader.balance(address(1), 1) == 1


async def test_a_hanging_chain_meets_the_deadline(chain: ScriptedChain) -> None:
    reader = ChainReader(chain, URL, timeout_s=0.05)
    chain.gate = threading.Event()
    try:
        with pytest.raises(ChainUnavailable, match=r"no answer in 0\.05 s"):
            await reader.snapshot_supply()
        with pytest.raises(ChainUnavailable, match=r"no answer in 0\.05 s"):
            await reader.balance(address(1), 1)
    finally:
        chain.gate.set()


async def test_snapshot_supply_is_remembered(chain: ScriptedChain, reader: ChainReader) -> None:
    assert await reader.snapshot_supply() == (99, 10**25 + 99)
    chain.down = True
    assert await reader.supply(99) == 10**25 + 99


async def test_claims(chain: ScriptedChain, reader: ChainReader) -> None:
    certified = batch(1)
    paid = await reader.paid(PROVIDER.address)

    async def claim(cumulative: int) -> ClaimPaid:
        return await reader.claim_with_certificate(
            PROVIDER,
            certified.header,
            certified.certificate,
            provider=PROVIDER.address,
            cumulative=cumulative,
            proof=[],
        )

    assert (await claim(12)).amount_wei == 12 - paid
    with pytest.raises(TransactionReverted, match="nothing to claim"):
        await claim(0)


async def test_another_chain_is_refused(reader: ChainReader) -> None:
    await reader.check(77_101)
    with pytest.raises(ChainMismatch, match=r"77101.*31337"):
        await reader.check(31_337)


async def test_waiting_for_the_chain(autojump_clock: trio.testing.MockClock) -> None:
    failures = [ChainUnavailable(URL, "refused")] * 5
    tried_at: list[float] = []

    async def call() -> str:
        tried_at.append(trio.current_time())
        if failures:
            raise failures.pop()
        return "answer"

    log = structlog.stdlib.get_logger("test")
    with structlog.testing.capture_logs() as logged:
        assert await until_available("claim", call, log=log, first_s=1, most_s=4) == "answer"
    waits = [later - earlier for earlier, later in itertools.pairwise(tried_at)]
    assert waits == pytest.approx([1, 2, 4, 4, 4])
    assert len(logged) == 5


async def test_a_revert_is_not_retried() -> None:
    async def call() -> None:
        raise TransactionReverted("claim", "compute: bad proof")

    with pytest.raises(TransactionReverted):
        await until_available("claim", call, log=structlog.stdlib.get_logger("test"))


def test_a_chain_of_another_id_is_told_without_the_endpoints_secrets() -> None:
    error = ChainMismatch("https://alice:hunter2@rpc.example:8545/v2/k3y?token=t", 1, 2)
    assert str(error) == "chain at https://rpc.example:8545 has chain id 1, this network is on 2"
