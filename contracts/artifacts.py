"""The compiled contracts, and how calls to them are encoded. No compiler and no chain: the artifacts are checked in.

contracts/build.py writes them, contracts/client.py sends what is encoded here.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from eth_abi.abi import decode as abi_decode
from eth_abi.abi import encode as abi_encode
from eth_abi.exceptions import DecodingError, EncodingError
from eth_hash.auto import keccak

from contracts.errors import ArtifactError

ARTIFACTS_DIR = Path(__file__).parent / "artifacts"

CONTRACT_NAMES = ("mor", "registry", "compute", "emission_source", "lens")

MODULE_NAMES = ("emission",)
"""Sources that others import; nothing of theirs is deployed alone."""


class Artifact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One compiled contract. ``bytecode`` deploys it, ``runtime`` is what then stands on chain, without immutables."""

    name: str
    compiler: str
    source_sha256: str
    abi: tuple[dict[str, Any], ...]
    bytecode: str
    runtime: str

    def encode_deployment(self, *arguments: object) -> bytes:
        """The data of the transaction that deploys the contract with ``arguments``."""
        inputs = next((entry["inputs"] for entry in self.abi if entry["type"] == "constructor"), ())
        return bytes.fromhex(self.bytecode) + _encode(f"{self.name}.__init__", inputs, arguments)

    def encode_call(self, function: str, *arguments: object) -> bytes:
        """The data of a call: selector and arguments. Addresses are bytes, structs are tuples."""
        inputs = self._entry(function)["inputs"]
        selector = keccak(f"{function}({','.join(map(_abi_type, inputs))})".encode())[:4]
        return selector + _encode(f"{self.name}.{function}", inputs, arguments)

    def decode_result(self, function: str, data: bytes) -> tuple[Any, ...]:
        """What a call answered; addresses come as 0x strings. Raises :class:`ArtifactError` for anything else."""
        types = [_abi_type(output) for output in self._entry(function)["outputs"]]
        try:
            return tuple(abi_decode(types, data))
        except DecodingError as error:
            raise ArtifactError(f"{self.name}.{function}", f"answered 0x{data[:64].hex()}: {error}") from error

    def _entry(self, function: str) -> dict[str, Any]:
        for entry in self.abi:
            if entry["type"] == "function" and entry["name"] == function:
                return entry
        raise ArtifactError(self.name, f"has no function {function!r}")


@cache
def load_artifact(name: str) -> Artifact:
    """The artifact of the contract ``name``. Raises :class:`ArtifactError` where it is missing or broken."""
    path = ARTIFACTS_DIR / f"{name}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Artifact)
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtifactError(name, f"cannot be read from {path}: {error}") from error


def _abi_type(parameter: Mapping[str, Any]) -> str:
    kind = str(parameter["type"])
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(map(_abi_type, parameter['components']))}){kind.removeprefix('tuple')}"


def _encode(what: str, inputs: Sequence[Mapping[str, Any]], arguments: Sequence[object]) -> bytes:
    try:
        return abi_encode([_abi_type(parameter) for parameter in inputs], arguments)
    except (EncodingError, TypeError, ValueError) as error:
        raise ArtifactError(what, f"does not take {arguments!r}: {error}") from error
