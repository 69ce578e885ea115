"""Errors of the contract side.

::

    ContractsError
    ├── SignatureInvalid      a signature that does not recover, or not to whom it should
    ├── EvidenceMismatch      two messages that are not of one kind and place, so the registry can't be shown them
    ├── TypedDataInvalid      a class that has no EIP-712 form
    ├── MerkleError           an unknown leaf or an impossible tree
    ├── ArtifactError         a compiled contract is missing, or was called with what it doesn't take
    ├── CodeDiffers           what stands on the chain is not what the source compiles to
    ├── ChainUnavailable      the chain did not answer in time (recoverable: retry later)
    ├── TransactionReverted   the chain refused a transaction; carries the contract's reason
    └── AnvilError            the local development chain could not be installed or started
"""


class ContractsError(Exception):
    """Root of this folder's errors."""


class SignatureInvalid(ContractsError):
    """A signature does not recover, is malleable, or belongs to somebody else.

    ``expected`` and ``recovered`` are 20-byte addresses, None where there is none.
    """

    def __init__(self, reason: str, expected: bytes | None = None, recovered: bytes | None = None) -> None:
        self.reason = reason
        self.expected = expected
        self.recovered = recovered
        detail = ""
        if expected is not None and recovered is not None:
            detail = f": expected 0x{expected.hex()}, recovered 0x{recovered.hex()}"
        super().__init__(reason + detail)


class EvidenceMismatch(ContractsError):
    """Two messages differ in what the registry takes once for both. ``values`` are the two."""

    def __init__(self, what: str, values: tuple[object, object]) -> None:
        self.what = what
        self.values = values
        super().__init__(f"evidence with two {what}: {values[0]!r} and {values[1]!r}")


class TypedDataInvalid(ContractsError):
    """A class or field has no EIP-712 form. ``where`` names it."""

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        super().__init__(f"{where}: {reason}")


class MerkleError(ContractsError):
    """A tree or proof was asked for what it cannot hold."""


class ArtifactError(ContractsError):
    """A compiled contract is missing or broken, or a call does not fit its ABI. ``what`` names contract or function."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        super().__init__(f"{what} {reason}")


class CodeDiffers(ContractsError):
    """The contract ``name`` at ``address`` is not what its source and its arguments make."""

    def __init__(self, name: str, address: bytes, reason: str) -> None:
        self.name = name
        self.address = address
        self.reason = reason
        super().__init__(f"{name} at 0x{address.hex()}: {reason}")


class ChainUnavailable(ContractsError):
    """The chain endpoint did not answer in time or refused the connection. ``url`` is the endpoint."""

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        super().__init__(f"chain at {url} is unreachable: {reason}")


class TransactionReverted(ContractsError):
    """The chain refused a transaction or call. ``reason`` is the contract's revert string."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what} reverted: {reason}")


class AnvilError(ContractsError):
    """The local development chain could not be installed, verified or started."""
