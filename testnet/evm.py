"""The checked-in bytecode in an EVM in this process: for simulations and tests that need no node and no network."""

from dataclasses import dataclass
from typing import Any

from eth_abi.abi import decode as abi_decode
from eth_hash.auto import keccak

from contracts.artifacts import load_artifact
from contracts.typed_data import Address
from testnet.errors import TestnetError

CHAIN_ID = 77_101
DEPLOYER = Address(b"\xdd" * 20)


class Refused(Exception):
    """A call reverted; ``reason`` is the contract's own."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class LocalChain:
    """An EVM of its own."""

    def __init__(self) -> None:
        """Raises :class:`~testnet.errors.TestnetError` where titanoboa is not installed."""
        try:
            import boa  # noqa: PLC0415  # an extra of developers, and slow to import
        except ImportError as error:
            raise TestnetError(
                "an EVM in this process needs titanoboa: pip install 'yellowstone-router[dev]'"
            ) from error
        self.env: Any = boa.Env()
        _untrace(self.env.evm.vm.state.computation_class.opcodes)
        self.env.evm.patch.chain_id = CHAIN_ID

    @property
    def chain_id(self) -> int:
        """The chain's id."""
        return int(self.env.evm.patch.chain_id)

    def deploy(self, name: str, *arguments: object) -> "Contract":
        """A contract of the checked-in bytecode, deployed by :data:`DEPLOYER`."""
        data = load_artifact(name).encode_deployment(*arguments)
        address, computation = self.env.deploy(bytecode=data, sender=_hex(DEPLOYER))
        _check(computation)
        return Contract(self, name, Address(address.canonical_address))

    @property
    def now_s(self) -> int:
        """The chain's time, in Unix seconds."""
        return int(self.env.evm.patch.timestamp)

    def pass_time(self, seconds: int) -> None:
        """Let so many seconds go by."""
        self.env.evm.patch.timestamp += seconds


@dataclass(frozen=True)
class Contract:
    """A deployed contract: called by name, from anybody."""

    chain: LocalChain
    name: str
    address: Address

    def __call__(self, function: str, *arguments: object, sender: Address = DEPLOYER) -> Any:
        """What the call answers: one value bare, several as a tuple. Raises :class:`Refused`."""
        artifact = load_artifact(self.name)
        computation = self.send(artifact.encode_call(function, *arguments), sender)
        values = artifact.decode_result(function, computation.output)
        return values[0] if len(values) == 1 else values

    def send(self, data: bytes, sender: Address = DEPLOYER) -> Any:
        """Run a call; what the EVM says of it. Raises :class:`Refused`."""
        computation = self.chain.env.execute_code(to_address=_hex(self.address), sender=_hex(sender), data=data)
        _check(computation)
        return computation

    def logs(self, data: bytes, event: str, sender: Address = DEPLOYER) -> list[tuple[list[bytes], bytes]]:
        """Topics after the first and data of each ``event`` (its full signature) that the call logs."""
        topic = int.from_bytes(keccak(event.encode()), "big")
        entries = self.send(data, sender).get_log_entries()
        found = [(topics, body) for address, topics, body in entries if address == self.address and topics[0] == topic]
        return [([value.to_bytes(32, "big") for value in topics[1:]], body) for topics, body in found]


def _untrace(opcodes: dict[int, Any]) -> None:
    """Take titanoboa's tracers off KECCAK256 and SSTORE.

    Every environment wraps its own round those of all that came before it, because they share one table: the
    thousandth chain of a process would be many times as slow as the first, and none would ever be freed.
    """
    for opcode in (0x20, 0x55):
        while (inner := getattr(opcodes[opcode], "sha3", None) or getattr(opcodes[opcode], "sstore", None)) is not None:
            opcodes[opcode] = inner


def _check(computation: Any) -> None:
    if not computation.is_error:
        return
    output = bytes(computation.output)
    reason = abi_decode(["string"], output[4:])[0] if output[:4] == bytes.fromhex("08c379a0") else ""
    raise Refused(reason)


def _hex(address: Address) -> str:
    return "0x" + address.hex()
