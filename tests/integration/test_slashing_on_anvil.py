"""A member of a running committee signs twice: the others find it, gossip it, and a full node that holds the evidence
has it slashed on a real chain."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from consensus.params import NetworkParams, economics_of
from contracts.anvil import AnvilChain, anvil
from contracts.bindings import Compute, Mor, Registry
from contracts.client import ChainClient
from contracts.errors import TransactionReverted
from contracts.typed_data import Digest, Domain
from gossip.messages import sign
from gossip.messages.committee import Prevote, PrevoteFrame
from gossip.messages.evidence import DoublePrevote, decode_evidence
from node.chain import ContractCalls
from node.config import ContractAddresses
from tests.consensus.builders import key
from tests.node.roles.fakes import MEMBERS, WEI
from tests.node.roles.harness import open_lab, until

CACHE_DIR = Path(__file__).parents[2] / ".cache" / "anvil"
STAKE = 1_000 * WEI
FINDER = key("finder")

T = TypeVar("T")


async def on_thread(function: Callable[[], T]) -> T:
    with trio.fail_after(60):
        return await trio.to_thread.run_sync(function)


def deploy(chain: AnvilChain, client: ChainClient) -> tuple[Mor, Registry, Compute]:
    """The three contracts, the four members' stakes in epoch 1, and coin for the finder's gas."""
    deployer = chain.funded_keys[0]
    mor = Mor.deploy(client, deployer)
    registry = Registry.deploy(client, deployer, mor.address, 3_600)
    compute = Compute.deploy(client, deployer, mor.address, registry.address, economics_of(NetworkParams(), 1))
    registry.bind(deployer, compute.address)
    for member in MEMBERS:
        client.pay(deployer, member.address, WEI)
        mor.mint(deployer, member.address, STAKE)
        mor.approve(member, registry.address, STAKE)
        registry.stake(member, STAKE)
    registry.open_epoch(deployer)
    client.pay(deployer, FINDER.address, WEI)
    return mor, registry, compute


async def test_a_double_sign_costs_the_stake_and_leaves_the_next_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with anvil(CACHE_DIR, tmp_path / "anvil.log") as chain:
        client = ChainClient(chain.url)
        mor, registry, compute = await on_thread(lambda: deploy(chain, client))
        contracts = ContractAddresses(mor.address, registry.address, compute.address)
        calls = await on_thread(lambda: ContractCalls(chain.url, contracts, 10))
        domain = Domain(chain.chain_id, compute.address)
        assert len(await on_thread(registry.candidates)) == 4

        async with open_lab(tmp_path, monkeypatch, domain=domain, calls=calls) as lab:
            assert await on_thread(registry.committee_root) == lab.committee.root
            members = await lab.start_committee()
            finder = await lab.start_finder("finder")
            assert finder.address == FINDER.address
            await lab.knows(finder)
            liar = members[3]
            for value in (b"\x01", b"\x02"):
                vote = sign(Prevote(1, 0, 0, Digest(value * 32)), MEMBERS[3], domain)
                liar.member_parts()[1].broadcast(PrevoteFrame(vote))
            members[0].member_parts()[2]._hand_over(lab.world().settlement())

            pools = [one.parts.evidence for one in lab.running.values()]
            await until(lambda: all(pool.report() for pool in pools), "evidence everywhere")
            await until(lambda: finder.parts.evidence.report()[0]["fate"] != "open", "an answer of the registry")
            (case,) = finder.parts.evidence.report()
            assert (case["offender"], case["fate"], case["reward_wei"]) == (liar.address, "slashed", STAKE // 20)
            evidence = decode_evidence(case["evidence"])

        assert await on_thread(lambda: registry.is_slashed(liar.address))
        left = await on_thread(registry.candidates)
        assert [member for member, _ in left] == [member.address for member in MEMBERS[:3]]
        assert await on_thread(lambda: mor.balance_of(FINDER.address)) == STAKE // 20
        assert isinstance(evidence, DoublePrevote)
        with pytest.raises(TransactionReverted, match="registry: already punished"):
            await on_thread(lambda: calls.slash(FINDER, liar.address, evidence))
        calls._client.close()
        client.close()
