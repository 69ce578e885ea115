import pytest

from contracts.artifacts import load_artifact
from contracts.typed_data import ZERO_ADDRESS, Address
from testnet.evm import Contract, LocalChain
from tests.contracts.local_chain import refused

ALICE = Address(b"\xa1" * 20)
BOB = Address(b"\xb0" * 20)
CAROL = Address(b"\xca" * 20)


@pytest.fixture
def mor() -> Contract:
    token = LocalChain().deploy("mor")
    token("mint", ALICE, 100)
    return token


def test_it_names_itself(mor: Contract) -> None:
    assert (mor("name"), mor("symbol"), mor("decimals")) == ("MOR", "MOR", 18)


def test_the_deployer_mints(mor: Contract) -> None:
    assert mor("balanceOf", ALICE) == 100
    assert mor("totalSupply") == 100


def test_nobody_else_mints(mor: Contract) -> None:
    with refused("mor: not the minter"):
        mor("mint", ALICE, 1, sender=ALICE)


def test_nothing_is_minted_to_nobody(mor: Contract) -> None:
    with refused("mor: zero address"):
        mor("mint", ZERO_ADDRESS, 1)


def test_the_supply_does_not_overflow(mor: Contract) -> None:
    with refused(""):
        mor("mint", BOB, 2**256 - 1)


def test_transfer_moves_and_logs(mor: Contract) -> None:
    data = load_artifact("mor").encode_call("transfer", BOB, 40)
    logged = mor.logs(data, "Transfer(address,address,uint256)", sender=ALICE)
    assert logged == [([ALICE.rjust(32, b"\0"), BOB.rjust(32, b"\0")], (40).to_bytes(32, "big"))]
    assert (mor("balanceOf", ALICE), mor("balanceOf", BOB), mor("totalSupply")) == (60, 40, 100)


def test_transfer_to_oneself_changes_nothing(mor: Contract) -> None:
    assert mor("transfer", ALICE, 100, sender=ALICE)
    assert mor("balanceOf", ALICE) == 100


def test_more_than_the_balance_is_not_moved(mor: Contract) -> None:
    with refused("mor: balance too low"):
        mor("transfer", BOB, 101, sender=ALICE)


def test_nothing_is_sent_to_nobody(mor: Contract) -> None:
    with refused("mor: zero address"):
        mor("transfer", ZERO_ADDRESS, 1, sender=ALICE)


def test_an_allowance_is_used_up(mor: Contract) -> None:
    mor("approve", BOB, 50, sender=ALICE)
    assert mor("transferFrom", ALICE, CAROL, 30, sender=BOB)
    assert (mor("balanceOf", CAROL), mor("allowance", ALICE, BOB)) == (30, 20)
    with refused("mor: allowance too low"):
        mor("transferFrom", ALICE, CAROL, 21, sender=BOB)


def test_an_unlimited_allowance_stays(mor: Contract) -> None:
    mor("approve", BOB, 2**256 - 1, sender=ALICE)
    mor("transferFrom", ALICE, CAROL, 30, sender=BOB)
    assert mor("allowance", ALICE, BOB) == 2**256 - 1


def test_the_lens_reads_supply_and_balances_at_once(mor: Contract) -> None:
    lens = mor.chain.deploy("lens")
    assert lens("snapshot", mor.address, (ALICE, BOB, ALICE)) == (100, (100, 0, 100))
    assert lens("snapshot", mor.address, ()) == (100, ())


def test_the_lens_refuses_what_is_no_token(mor: Contract) -> None:
    lens = mor.chain.deploy("lens")
    with refused(""):
        lens("snapshot", ALICE, (BOB,))
