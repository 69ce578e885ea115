"""The only user of web3: calls, transactions and snapshots over JSON-RPC.

Synchronous, because web3's asynchronous half needs asyncio: callers run it in worker threads, which may share one
client. Plain values go in and out: addresses and hashes are bytes, amounts are int. contracts/bindings.py names the
contracts' functions; this module knows no contract but the lens.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests
from eth_abi.abi import decode as abi_decode
from eth_abi.exceptions import DecodingError
from eth_account import Account
from eth_keys.backends import get_backend
from eth_keys.backends.coincurve import CoinCurveECCBackend
from eth_utils.address import to_checksum_address
from web3 import HTTPProvider, Web3
from web3.exceptions import BlockNotFound, ContractLogicError, TransactionNotFound, Web3Exception, Web3RPCError
from web3.types import Nonce
from web3.utils.address import get_create_address

from contracts.artifacts import Artifact, load_artifact
from contracts.errors import (
    ArtifactError,
    ChainError,
    ChainUnavailable,
    ContractsError,
    GasMissing,
    TransactionReverted,
)
from contracts.signing import Key
from contracts.typed_data import Address, Digest

if not isinstance(get_backend(), CoinCurveECCBackend):
    raise ContractsError(f"transactions would be signed by {type(get_backend()).__name__}: install coincurve")

LENS = Address(bytes.fromhex("001e4500000000000000000000000000000001e4"))
"""Where the lens's code is lent to for one call; nothing stands there."""

LENS_LIMIT = 1_000
"""How many balances the lens reads in one call."""

REVERT_CODE = 3
"""The JSON-RPC code of a contract's refusal (geth's; other nodes say so in words or by revert data)."""

STUCK_S = 15.0
"""A transaction that isn't mined in so many seconds is sent again with a higher fee."""


@dataclass(frozen=True, slots=True)
class Log:
    """An event of a mined transaction, undecoded."""

    address: Address
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """A mined transaction. ``contract`` is the address it created, if it did; ``gas_used`` is in gas."""

    tx_hash: Digest
    block_number: int
    gas_used: int
    contract: Address | None
    logs: tuple[Log, ...]


@dataclass(frozen=True, slots=True)
class Sent:
    """A signed transaction, by what finds it again: its sender's nonce, and its hash."""

    nonce: int
    tx_hash: Digest


def unannounced(_: Sent) -> None:
    """For callers that need not find a transaction again after a crash."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A token's supply and some balances at one block, in wei; ``balances`` is in the order asked."""

    block: int
    supply_wei: int
    balances: tuple[int, ...]


@dataclass(slots=True)
class _Sender:
    """One key's transactions: its lock, and the next nonce, None when the chain must be asked."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    nonce: int | None = None


@dataclass(slots=True)
class _Outgoing:
    """A transaction on its way: what it is now, and the hashes of all versions that were sent."""

    key: Key
    transaction: dict[str, Any]
    what: str
    announce: Callable[[Sent], None]
    hashes: list[Digest] = field(default_factory=list)


class ChainClient:
    """A chain behind a JSON-RPC endpoint.

    ``timeout_s`` bounds every request, ``mined_within_s`` the wait for a receipt. Every method raises
    :class:`ChainUnavailable` where the endpoint doesn't answer, :class:`TransactionReverted` where it refuses.
    """

    def __init__(self, url: str, timeout_s: float = 10.0, mined_within_s: float = 60.0) -> None:
        self.url = url
        self._mined_within_s = mined_within_s
        self._session = requests.Session()
        provider = HTTPProvider(
            url, request_kwargs={"timeout": timeout_s}, session=self._session, exception_retry_configuration=None
        )
        provider.global_ccip_read_enabled = False  # a contract must not choose which hosts this client visits
        web3 = Web3(provider)
        web3.middleware_onion.remove("validation")  # it asks for the chain id before every call
        self._eth = web3.eth
        self._senders: dict[Address, _Sender] = {}
        self._senders_lock = threading.Lock()
        self._answered: set[Address] = set()

    def close(self) -> None:
        """Close the connections; the client can be used again afterwards."""
        self._session.close()

    def chain_id(self) -> int:
        """The chain's EIP-155 id."""
        with self._translated("chain id"):
            return int(self._eth.chain_id)

    def block_number(self) -> int:
        """The newest block's number."""
        with self._translated("block number"):
            return int(self._eth.block_number)

    def block_timestamp(self, block: int | None = None) -> int:
        """A block's time in Unix seconds; the newest block's where none is named."""
        return int(self._block(block)["timestamp"])

    def block_hash(self, block: int | None = None) -> Digest:
        """A block's hash: it changes when the chain reorganises."""
        return Digest(bytes(self._block(block)["hash"]))

    def code(self, address: Address) -> bytes:
        """What stands at ``address``; empty where there is no contract."""
        with self._translated(f"code of 0x{address.hex()}"):
            return bytes(self._eth.get_code(to_checksum_address(address)))

    def would_create(self, deployment: bytes, sender: Address, what: str) -> bytes:
        """The code that ``deployment``, bytecode and arguments, would leave on the chain if ``sender`` sent it now."""
        request: Any = {"from": to_checksum_address(sender), "data": "0x" + deployment.hex()}
        with self._translated(what):
            return bytes(self._eth.call(request))

    def native_balance(self, address: Address) -> int:
        """What ``address`` has for gas, in wei of the chain's own coin."""
        with self._translated("native balance"):
            return int(self._eth.get_balance(to_checksum_address(address)))

    def balances(self, mor: Address, addresses: Sequence[Address], block: int | None = None) -> list[int]:
        """Wei of the token ``mor`` that each address holds at ``block``; one request per 1,000 addresses."""
        return list(self.snapshot(mor, addresses, block).balances)

    def total_supply(self, mor: Address, block: int | None = None) -> int:
        """Wei of the token ``mor`` in existence at ``block``."""
        return self.snapshot(mor, (), block).supply_wei

    def snapshot(self, mor: Address, addresses: Sequence[Address], block: int | None = None) -> Snapshot:
        """Supply and balances of the token ``mor``, all of one block (the newest where none is named)."""
        number = self.block_number() if block is None else block
        lens = load_artifact("lens")
        lent: Any = {to_checksum_address(LENS): {"code": "0x" + lens.runtime}}
        supply, balances = 0, list[int]()
        for start in range(0, max(len(addresses), 1), LENS_LIMIT):
            data = lens.encode_call("snapshot", mor, tuple(addresses[start : start + LENS_LIMIT]))
            answer = self._call(LENS, data, f"snapshot of 0x{mor.hex()}", number, lent)
            supply, chunk = self._decoded(lens, "snapshot", answer)
            balances += chunk
        return Snapshot(number, supply, tuple(balances))

    def call(self, name: str, to: Address, function: str, *arguments: object, block: int | None = None) -> Any:
        """What a view of the contract ``name`` at ``to`` answers: one value bare, several as a tuple."""
        artifact = load_artifact(name)
        answer = self._call(to, artifact.encode_call(function, *arguments), f"{name}.{function}", block)
        what = f"{name}.{function}"
        if not answer and to in self._answered:
            raise ChainUnavailable(self.url, f"{what}: empty, though a contract has answered at 0x{to.hex()}")
        if not answer:
            raise TransactionReverted(what, f"there is no contract at 0x{to.hex()}")
        values = self._decoded(artifact, function, answer)
        self._answered.add(to)
        return values[0] if len(values) == 1 else values

    def transact(self, key: Key, name: str, to: Address, function: str, *arguments: object) -> Receipt:
        """Send a transaction to the contract ``name`` at ``to`` and wait until it is mined."""
        return self.send(key, to, load_artifact(name).encode_call(function, *arguments), f"{name}.{function}")

    def deploy(
        self, key: Key, name: str, *arguments: object, announce: Callable[[Sent], None] = unannounced
    ) -> Address:
        """Deploy the contract ``name`` and return its address; ``announce`` as for :meth:`send`."""
        what = f"deployment of {name}"
        data = load_artifact(name).encode_deployment(*arguments)
        receipt = self.send(key, None, data, what, announce=announce)
        if receipt.contract is None:
            raise TransactionReverted(what, f"transaction 0x{receipt.tx_hash.hex()} created no contract")
        return receipt.contract

    def pay(self, key: Key, to: Address, amount: int) -> Receipt:
        """Send ``amount`` wei of the chain's own coin, so that ``to`` can pay for gas."""
        return self.send(key, to, b"", f"payment of {amount} wei for gas", amount)

    def send(
        self,
        key: Key,
        to: Address | None,
        data: bytes,
        what: str,
        amount: int = 0,
        *,
        announce: Callable[[Sent], None] = unannounced,
    ) -> Receipt:
        """Sign, send and wait for one transaction; ``what`` names it in errors.

        ``announce`` is told before any version of it leaves, and nothing leaves where that raises. It is sent again
        with a 12.5 % higher fee when it is stuck. Where it isn't mined in time :class:`ChainUnavailable` is raised,
        and the next transaction asks the chain for its nonce.
        """
        transaction: dict[str, Any] = {"data": "0x" + data.hex(), "value": amount, "chainId": self.chain_id()}
        if to is not None:
            transaction["to"] = to_checksum_address(to)
        sender = self._sender(key.address)
        outgoing = _Outgoing(key, transaction, what, announce)
        with sender.lock:
            self._send_first(outgoing, sender)
        return self._mined(outgoing)

    def resume(self, key: Key, sent: Sent, what: str, announce: Callable[[Sent], None] = unannounced) -> Receipt:
        """Wait for a transaction that waits in the pool since an earlier run, as :meth:`send` does.

        Raises :class:`ChainUnavailable` as well where the pool doesn't hold it.
        """
        with self._translated(what):
            try:
                found: Any = self._eth.get_transaction(sent.tx_hash)  # type: ignore[arg-type]  # web3 wants its own bytes
            except TransactionNotFound as error:
                reason = f"{what} (0x{sent.tx_hash.hex()}) is not in the pool"
                raise ChainUnavailable(self.url, reason) from error
            fees = {name: int(found[name]) for name in ("maxPriorityFeePerGas", "maxFeePerGas")}
            transaction = {"data": bytes(found["input"]), "value": int(found["value"]), "chainId": self.chain_id()}
            transaction |= {"gas": int(found["gas"]), "nonce": sent.nonce, **fees}
            if found["to"] is not None:
                transaction["to"] = found["to"]
        return self._mined(_Outgoing(key, transaction, what, announce, [sent.tx_hash]))

    def transaction_counts(self, sender: Address) -> tuple[int, int]:
        """How many transactions of ``sender`` are mined, and how many with those in the pool: its next nonces."""
        owner = to_checksum_address(sender)
        with self._translated(f"transactions of 0x{sender.hex()}"):
            counts = [self._eth.get_transaction_count(owner, block) for block in ("latest", "pending")]
        return int(counts[0]), int(counts[1])

    def _send_first(self, outgoing: _Outgoing, sender: _Sender) -> None:
        """Fill in gas, fee and nonce, and send; the caller holds the sender's lock."""
        owner, transaction = to_checksum_address(outgoing.key.address), outgoing.transaction
        try:
            with self._translated(outgoing.what):
                gas: int = self._eth.estimate_gas({"from": owner, **transaction}, "pending")  # type: ignore[typeddict-item]  # built up key by key
                tip = int(self._eth.max_priority_fee)
                base = int(self._eth.get_block("latest")["baseFeePerGas"])
                if sender.nonce is None:
                    sender.nonce = int(self._eth.get_transaction_count(owner, "pending"))
            transaction |= {
                "gas": gas * 6 // 5,
                "maxPriorityFeePerGas": tip,
                "maxFeePerGas": 2 * base + tip,
                "nonce": sender.nonce,
            }
            self._check_coin(outgoing)
            self._broadcast(outgoing)
        except ContractsError:
            sender.nonce = None
            raise
        sender.nonce += 1

    def _check_coin(self, outgoing: _Outgoing) -> None:
        """Raise :class:`GasMissing` where the sender can't pay for the transaction."""
        fields, sender = outgoing.transaction, outgoing.key.address
        needed = fields["gas"] * fields["maxFeePerGas"] + fields["value"]
        if (held := self.native_balance(sender)) < needed:
            raise GasMissing(self.url, outgoing.what, sender, needed, held)

    def _broadcast(self, outgoing: _Outgoing) -> None:
        """Sign it as it is now, announce it and send it."""
        signed = Account.sign_transaction(outgoing.transaction, outgoing.key.reveal())
        tx_hash = Digest(bytes(signed.hash))
        outgoing.announce(Sent(outgoing.transaction["nonce"], tx_hash))
        with self._translated(outgoing.what):
            self._eth.send_raw_transaction(signed.raw_transaction)
        outgoing.hashes.append(tx_hash)

    def _mined(self, outgoing: _Outgoing) -> Receipt:
        try:
            mined = self._await_mined(outgoing)
        except ChainUnavailable:
            sender = self._sender(outgoing.key.address)
            with sender.lock:
                sender.nonce = None
            raise
        return self._checked_receipt(mined, outgoing.key.address, outgoing.transaction, outgoing.what)

    def _await_mined(self, outgoing: _Outgoing) -> Any:
        """Poll for the receipt of any of the transaction's versions, and raise the fee of one that is stuck."""
        now = time.monotonic()
        deadline, stuck, pause = now + self._mined_within_s, now + STUCK_S, 0.02
        what, transaction, refused = outgoing.what, outgoing.transaction, ""
        while time.monotonic() < deadline:
            for candidate in outgoing.hashes:
                with self._translated(what), contextlib.suppress(TransactionNotFound):
                    return self._eth.get_transaction_receipt(candidate)  # type: ignore[arg-type]  # web3 wants its own bytes
            if time.monotonic() >= stuck:
                stuck = time.monotonic() + STUCK_S
                for fee in ("maxPriorityFeePerGas", "maxFeePerGas"):
                    transaction[fee] = raised_fee(transaction[fee])
                try:
                    self._broadcast(outgoing)
                except ChainError as error:
                    refused = f", its replacement was refused: {error}"
            time.sleep(pause)
            pause = min(2 * pause, 0.5)
        first = outgoing.hashes[0].hex()
        raise ChainUnavailable(self.url, f"{what} (0x{first}) was not mined in {self._mined_within_s:g} s{refused}")

    def _checked_receipt(self, mined: Any, owner: Address, transaction: dict[str, Any], what: str) -> Receipt:
        if mined["status"] != 1:
            with self._translated(what):  # once more as a call, which tells the reason
                names = {name: transaction[name] for name in ("to", "data", "value", "gas") if name in transaction}
                again: Any = {"from": to_checksum_address(owner), **names}
                self._eth.call(again, mined["blockNumber"])
            raise TransactionReverted(what, f"no reason to be had (gas used: {mined['gasUsed']})")
        created = mined.get("contractAddress")
        return Receipt(
            tx_hash=Digest(bytes(mined["transactionHash"])),
            block_number=int(mined["blockNumber"]),
            gas_used=int(mined["gasUsed"]),
            contract=Address(bytes.fromhex(created[2:])) if created else None,
            logs=tuple(
                Log(Address(bytes.fromhex(log["address"][2:])), tuple(map(bytes, log["topics"])), bytes(log["data"]))
                for log in mined["logs"]
            ),
        )

    def _sender(self, address: Address) -> _Sender:
        with self._senders_lock:
            return self._senders.setdefault(address, _Sender())

    def _block(self, block: int | None) -> Any:
        with self._translated(f"block {'latest' if block is None else block}"):
            return self._eth.get_block("latest" if block is None else block)

    def _call(self, to: Address, data: bytes, what: str, block: int | None, lent: Any = None) -> bytes:
        request: Any = {"to": to_checksum_address(to), "data": "0x" + data.hex()}
        with self._translated(what):
            return bytes(self._eth.call(request, "latest" if block is None else block, lent))

    def _decoded(self, artifact: Artifact, function: str, answer: bytes) -> tuple[Any, ...]:
        """The values in ``answer``; what doesn't fit the ABI is the endpoint's nonsense."""
        try:
            return artifact.decode_result(function, answer)
        except ArtifactError as error:
            raise ChainUnavailable(self.url, str(error)) from error

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Turn web3's and requests' errors into this folder's; an unmined transaction's passes."""
        try:
            yield
        except TransactionNotFound:
            raise
        except ContractLogicError as error:
            raise TransactionReverted(what, _revert_reason(error)) from error
        except BlockNotFound as error:
            raise ChainUnavailable(self.url, f"{what}: {error}") from error
        except Web3RPCError as error:
            if _is_revert(error):
                raise TransactionReverted(what, _rpc_message(error)) from error
            raise ChainUnavailable(self.url, f"{what}: {_rpc_message(error)}", _rpc_code(error)) from error
        except (OSError, ValueError, LookupError, TypeError, AttributeError, Web3Exception) as error:
            # requests' own errors are OSErrors; the others are how web3 stumbles over an answer that makes no sense
            raise ChainUnavailable(self.url, f"{what}: {error}") from error


def created_address(sender: Address, nonce: int) -> Address:
    """Where the contract stands that ``sender``'s transaction ``nonce`` creates."""
    return Address(bytes.fromhex(get_create_address(to_checksum_address(sender), Nonce(nonce))[2:]))


def raised_fee(fee: int) -> int:
    """The least fee in wei that replaces ``fee``: 12.5 % more, rounded up."""
    return max(fee + 1, -(-fee * 9 // 8))


def _revert_reason(error: ContractLogicError) -> str:
    """The contract's own words out of ``Error(string)``, else what the node says."""
    data = str(error.data or "")
    if data.startswith("0x08c379a0"):
        with contextlib.suppress(DecodingError, ValueError):
            return str(abi_decode(["string"], bytes.fromhex(data[10:]))[0])
    return str(error.message or "no reason given").removeprefix("execution reverted: ")


def _rpc_error(error: Web3RPCError) -> dict[str, Any]:
    """The endpoint's error object; empty where it isn't an object."""
    response: Any = error.rpc_response or {}
    found = response.get("error")
    return found if isinstance(found, dict) else {}


def _rpc_message(error: Web3RPCError) -> str:
    return str(_rpc_error(error).get("message") or error.message)


def _rpc_code(error: Web3RPCError) -> int | None:
    code = _rpc_error(error).get("code")
    return code if isinstance(code, int) else None


def _is_revert(error: Web3RPCError) -> bool:
    """Whether a contract refused. Anything else, a rate limit for instance, is the endpoint's own failure."""
    data = _rpc_error(error).get("data")
    has_revert_data = isinstance(data, str) and data.startswith("0x") and len(data) > len("0x")
    return has_revert_data or _rpc_code(error) == REVERT_CODE or "execution reverted" in _rpc_message(error)
