"""Errors of the contract side.

::

    ContractsError
    ├── SignatureInvalid      a signature that does not recover, or not to whom it should
    ├── EvidenceMismatch      two messages that are not of one kind and place, so the registry can't be shown them
    ├── TypedDataInvalid      a class that has no EIP-712 form
    ├── MerkleError           an unknown leaf or an impossible tree
    ├── ArtifactError         a compiled contract is missing, or was called with what it doesn't take
    ├── CodeDiffers           what stands on the chain is not what the source compiles to
    ├── ChainError            the chain could not be asked, or it refused
    │   ├── ChainUnavailable      the endpoint failed (recoverable: retry later)
    │   │   └── GasMissing            a sender can't pay for its transaction yet
    │   └── TransactionReverted   a contract refused; carries its reason
    └── AnvilError            the local development chain could not be installed or started
"""

from urllib.parse import urlsplit, urlunsplit


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


class ChainError(ContractsError):
    """The chain could not be asked, or it refused. Whatever polls a chain outlives both."""


class ChainUnavailable(ChainError):
    """The endpoint gave no usable answer: none in time, nonsense, or an error of its own such as a rate limit.

    ``url`` is the endpoint's scheme, host and port: user, password, path and query may hold a secret and are left out
    of ``reason`` too. ``code`` is the JSON-RPC error's, where the endpoint answered with one.
    """

    def __init__(self, url: str, reason: str, code: int | None = None) -> None:
        self.url = public_endpoint(url)
        self.code = code
        told = _without_secrets(url, reason)
        super().__init__(f"chain at {self.url} is unreachable: {told}" + ("" if code is None else f" (code {code})"))


class GasMissing(ChainUnavailable):
    """``sender`` has ``held`` wei of the chain's coin and needs ``needed`` for ``what``; nothing was sent.

    Recoverable, as an endpoint's failure is: somebody may send it coin.
    """

    def __init__(self, url: str, what: str, sender: bytes, needed: int, held: int) -> None:
        self.sender = sender
        self.needed = needed
        self.held = held
        reason = f"{what}: 0x{sender.hex()} needs {needed} wei of the chain's coin for gas, and has {held}"
        super().__init__(url, reason)
        self.args = (reason,)


class TransactionReverted(ChainError):
    """A contract refused a transaction or call. ``reason`` is its revert string."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what} reverted: {reason}")


def public_endpoint(url: str) -> str:
    """Scheme, host and port of ``url``; hosted endpoints carry their key in any other part."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def secret_parts(url: str) -> tuple[str, ...]:
    """Parts of ``url`` that may be a key: user, password, path and query, the longest first."""
    parts = urlsplit(url)
    whole = urlunsplit(("", "", parts.path, parts.query, parts.fragment))
    found = {part for part in (whole, parts.path, parts.query, parts.username, parts.password) if part} - {"/"}
    return tuple(sorted(found, key=len, reverse=True))


def _without_secrets(url: str, text: str) -> str:
    """``text`` of a library without the parts of ``url`` that may be secret."""
    text = text.replace(url, public_endpoint(url))
    for secret in secret_parts(url):
        text = text.replace(secret, "…")
    return text


class AnvilError(ContractsError):
    """The local development chain could not be installed, verified or started."""
