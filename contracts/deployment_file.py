"""What a deployment has come to, as a file: read before each step and written after it, so that a broken one goes on.

The addresses of a network's contracts, what each was deployed with, and what is under way. :mod:`contracts.deploy`
carries it out, :mod:`contracts.verify` holds it against the chain.
"""

import os
import tempfile
from pathlib import Path

import msgspec

from contracts.errors import DeploymentFileInvalid
from contracts.typed_data import Address

Hex = str
"""``0x`` and hex digits."""


class Deployed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A contract on the chain. ``arguments`` is its constructor's, ABI-encoded."""

    address: Hex
    arguments: Hex
    block: int

    @property
    def raw_address(self) -> Address:
        """The 20 bytes."""
        return Address(bytes.fromhex(self.address[2:]))

    @property
    def raw_arguments(self) -> bytes:
        """What followed the bytecode in the transaction."""
        return bytes.fromhex(self.arguments[2:])


class Pending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A deployment that was about to be sent: where it ends up is known from the deployer's nonce."""

    contract: str
    nonce: int
    address: Hex
    arguments: Hex


class DeploymentFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One network's contracts. ``mor`` is an address alone where the token was there before."""

    chain_id: int
    deployer: Hex
    genesis_s: int = 0
    """When slot 0 begins, Unix seconds; 0 until the Compute Contract is deployed."""
    token: Hex | None = None
    """A token that was there before; None where a test network's own was deployed."""
    contracts: dict[str, Deployed] = {}
    pending: Pending | None = None

    def address_of(self, name: str) -> Address:
        """Where a contract is. Raises :class:`DeploymentFileInvalid` where it isn't deployed yet."""
        if name == "mor" and self.token is not None:
            return Address(bytes.fromhex(self.token[2:]))
        if name not in self.contracts:
            raise DeploymentFileInvalid(f"contracts.{name}", "is not deployed yet: run the deployment again")
        return self.contracts[name].raw_address


def read_deployment(path: Path) -> DeploymentFile:
    """The file at ``path``. Raises :class:`DeploymentFileInvalid`, naming what is wrong with it."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=DeploymentFile)
    except FileNotFoundError as error:
        raise DeploymentFileInvalid(str(path), "there is no such file") from error
    except OSError as error:
        raise DeploymentFileInvalid(str(path), f"cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DeploymentFileInvalid(str(path), f"is no address file: {error}") from error
    places: dict[str, tuple[str, int | None]]
    places = {f"contracts.{name}.address": (one.address, 20) for name, one in found.contracts.items()}
    places |= {f"contracts.{name}.arguments": (one.arguments, None) for name, one in found.contracts.items()}
    places["deployer"] = (found.deployer, 20)
    if found.token is not None:
        places["token"] = (found.token, 20)
    if found.pending is not None:
        places |= {"pending.address": (found.pending.address, 20), "pending.arguments": (found.pending.arguments, None)}
    for place, (text, size) in places.items():
        _check_hex(f"{path}: {place}", text, size)
    return found


def write_deployment(path: Path, deployment: DeploymentFile) -> None:
    """Replace the file at ``path`` as a whole: whoever is interrupted finds the old one or the new one."""
    text = msgspec.json.format(msgspec.json.encode(deployment), indent=1) + b"\n"
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).chmod(0o644)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def _check_hex(place: str, text: str, size: int | None) -> None:
    try:
        raw = bytes.fromhex(text[2:])
    except ValueError:
        raw = None
    if raw is None or not text.startswith("0x") or (size is not None and len(raw) != size):
        raise DeploymentFileInvalid(
            place, f"{text!r} is not 0x and {'hex' if size is None else f'{size} bytes of hex'}"
        )
