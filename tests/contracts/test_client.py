"""The client against endpoints that misbehave; against a real chain it is tested in tests/integration."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.bindings import Mor
from contracts.client import ChainClient, raised_fee
from contracts.errors import ChainUnavailable, GasMissing, TransactionReverted
from contracts.signing import Key
from contracts.typed_data import Address

TOKEN = Address(b"\x70" * 20)

REASON = "08c379a0" + "20".rjust(64, "0") + "9".rjust(64, "0") + b"mor: nope".hex().ljust(64, "0")
"""Error("mor: nope"), ABI-encoded."""

Answer = Callable[[dict[str, Any]], tuple[int, bytes]]


@contextmanager
def endpoint(answer: Answer) -> Iterator[str]:
    """A JSON-RPC endpoint that answers each request with a status and a body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = answer(request)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(BrokenPipeError):  # the client may have given up
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def client_of(url: str, timeout_s: float = 5.0) -> Iterator[ChainClient]:
    client = ChainClient(url, timeout_s=timeout_s, mined_within_s=0.2)
    try:
        yield client
    finally:
        client.close()


def result(value: object) -> Answer:
    return lambda request: (200, json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": value}).encode())


def error(**fields: object) -> Answer:
    return lambda request: (200, json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": fields}).encode())


def test_it_asks_for_the_chain_id() -> None:
    with endpoint(result("0x12d2d")) as url, client_of(url) as client:
        assert client.chain_id() == 77_101


def test_nobody_there_is_unavailable() -> None:
    with endpoint(result("0x1")) as url:
        pass
    with client_of(url) as client, pytest.raises(ChainUnavailable, match=url):
        client.chain_id()


def test_no_answer_in_time_is_unavailable() -> None:
    release = threading.Event()

    def wait(request: dict[str, Any]) -> tuple[int, bytes]:
        release.wait(20)
        return 200, b"{}"

    with endpoint(wait) as url, client_of(url, timeout_s=0.1) as client:
        try:
            with pytest.raises(ChainUnavailable, match="timed out"):
                client.block_number()
        finally:
            release.set()


@pytest.mark.parametrize(
    "answer", [(500, b"oops"), (429, b"slow down"), (200, b"<html>"), (200, b"[]"), (200, b""), (200, b'{"id": 1}')]
)
def test_what_is_no_json_rpc_is_unavailable(answer: tuple[int, bytes]) -> None:
    with endpoint(lambda _: answer) as url, client_of(url) as client, pytest.raises(ChainUnavailable):
        client.block_number()


def test_a_revert_carries_the_contracts_reason() -> None:
    refusal = error(code=3, message="execution reverted: anything", data="0x" + REASON)
    with (
        endpoint(refusal) as url,
        client_of(url) as client,
        pytest.raises(TransactionReverted, match=r"mor\.totalSupply reverted: mor: nope") as caught,
    ):
        Mor(client, TOKEN).total_supply()
    assert caught.value.reason == "mor: nope"


def test_a_revert_without_data_carries_the_nodes_words() -> None:
    refusal = error(code=3, message="execution reverted: mor: nope")
    with (
        endpoint(refusal) as url,
        client_of(url) as client,
        pytest.raises(TransactionReverted, match=r"reverted: mor: nope$"),
    ):
        Mor(client, TOKEN).total_supply()


@pytest.mark.parametrize(
    ("code", "message"),
    [(-32005, "rate limited"), (-32000, "insufficient funds"), (-32603, "internal error"), (0, "busy")],
)
def test_an_error_object_without_a_revert_is_the_endpoints_failure(code: int, message: str) -> None:
    with endpoint(error(code=code, message=message)) as url, client_of(url) as client:
        for ask in (client.block_number, client.chain_id, client.block_hash, Mor(client, TOKEN).total_supply):
            with pytest.raises(ChainUnavailable, match=message) as caught:
                ask()
            assert caught.value.code == code


@pytest.mark.parametrize("fields", [{"code": "busy"}, {"message": None, "data": []}, {"data": "0x"}, {}])
def test_an_odd_error_object_is_the_endpoints_failure_too(fields: dict[str, object]) -> None:
    with endpoint(error(**fields)) as url, client_of(url) as client, pytest.raises(ChainUnavailable):
        client.block_number()


@pytest.mark.parametrize("value", ["0x", "0x01", "0x" + "ff" * 31])
def test_nonsense_from_a_contract_that_has_answered_is_the_endpoints_failure(value: str) -> None:
    answers = ["0x" + "7".rjust(64, "0"), value]

    def one_after_the_other(request: dict[str, Any]) -> tuple[int, bytes]:
        return result(answers.pop(0))(request)

    with endpoint(one_after_the_other) as url, client_of(url) as client:
        assert Mor(client, TOKEN).total_supply() == 7
        with pytest.raises(ChainUnavailable, match=r"mor\.totalSupply|totalSupply"):
            Mor(client, TOKEN).total_supply()


def test_an_error_names_the_endpoint_and_none_of_its_secrets() -> None:
    with endpoint(result("0x1")) as url:
        pass
    secret = url.replace("http://", "http://alice:hunter2@") + "/v2/k3yk3y?token=t0k3n"
    with client_of(secret) as client, pytest.raises(ChainUnavailable, match=url) as caught:
        client.block_number()
    assert caught.value.url == url
    assert not [word for word in ("alice", "hunter2", "k3yk3y", "t0k3n") if word in str(caught.value)]


def test_a_view_of_nothing_says_so() -> None:
    with (
        endpoint(result("0x")) as url,
        client_of(url) as client,
        pytest.raises(TransactionReverted, match="no contract at 0x" + "70" * 20),
    ):
        Mor(client, TOKEN).total_supply()


def test_a_block_that_is_not_there_may_come_later() -> None:
    with endpoint(result(None)) as url, client_of(url) as client, pytest.raises(ChainUnavailable, match="block 12"):
        client.block_timestamp(12)


class FakeChain:
    """A chain that takes transactions and never mines one, unless told to refuse the first."""

    def __init__(self, refusals: int = 0, balance: str = "0xffff") -> None:
        self.refusals = refusals
        self.balance = balance
        self.asked: list[str] = []

    def __call__(self, request: dict[str, Any]) -> tuple[int, bytes]:
        method = request["method"]
        self.asked.append(method)
        if method == "eth_sendRawTransaction" and self.refusals:
            self.refusals -= 1
            return error(code=-32000, message="nonce too low")(request)
        block = {"number": "0x1", "baseFeePerGas": "0x7", "timestamp": "0x1", "hash": "0x" + "00" * 32}
        values = {
            "eth_getBlockByNumber": block,
            "eth_getBalance": self.balance,
            "eth_sendRawTransaction": "0x" + "ab" * 32,
            "eth_getTransactionReceipt": None,
        }
        return result(values.get(method, "0x1"))(request)


def test_who_cannot_pay_for_gas_is_told_how_much_it_takes() -> None:
    chain, sender = FakeChain(balance="0x5"), Key(b"\x01" * 32)
    with endpoint(chain) as url, client_of(url) as client, pytest.raises(GasMissing) as caught:
        client.pay(sender, TOKEN, 7)
    # one unit of gas and a fifth, rounded down, at twice the base fee and the tip, and what is sent
    assert (caught.value.sender, caught.value.needed, caught.value.held) == (sender.address, 15 + 7, 5)
    assert str(caught.value) == (
        f"payment of 7 wei for gas: 0x{sender.address.hex()} needs 22 wei of the chain's coin for gas, and has 5"
    )
    assert "eth_sendRawTransaction" not in chain.asked


def test_a_transaction_that_is_not_mined_in_time_is_named() -> None:
    with (
        endpoint(FakeChain()) as url,
        client_of(url) as client,
        pytest.raises(ChainUnavailable, match=r"mor\.mint \(0x[0-9a-f]{64}\) was not mined in 0\.2 s"),
    ):
        Mor(client, TOKEN).mint(Key(b"\x01" * 32), TOKEN, 1)


def test_the_nonce_is_read_again_after_an_error() -> None:
    chain = FakeChain(refusals=1)
    with endpoint(chain) as url, client_of(url) as client:
        with pytest.raises(ChainUnavailable, match="nonce too low"):
            client.pay(Key(b"\x01" * 32), TOKEN, 1)
        with pytest.raises(ChainUnavailable, match="not mined"):
            client.pay(Key(b"\x01" * 32), TOKEN, 1)
        with pytest.raises(ChainUnavailable, match="not mined"):
            client.pay(Key(b"\x01" * 32), TOKEN, 1)
    assert chain.asked.count("eth_getTransactionCount") == 3


@given(st.integers(0, 10**18))
def test_a_raised_fee_is_at_least_an_eighth_more(fee: int) -> None:
    assert 8 * (raised_fee(fee) - fee) >= fee
    assert fee < raised_fee(fee) <= fee + fee // 8 + 1
