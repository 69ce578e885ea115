"""Sign and recover EIP-712 digests with libsecp256k1 (32 µs a recovery; eth_account 133–230 µs).

A committee recovers five keys a settlement, so recovering calls coincurve's own binding of the library rather than
its key objects; the tests compare the two on signatures of every kind. Verifying against a key that is known already
would be a sixth faster still, but does not look at v: who has the key would take what others refuse.
"""

from functools import lru_cache, partial

import msgspec
from coincurve import PrivateKey, PublicKey
from coincurve._libsecp256k1 import ffi, lib  # type: ignore[import-not-found]  # compiled, without stubs
from coincurve.context import GLOBAL_CONTEXT
from eth_hash.auto import keccak

from contracts.errors import SignatureInvalid
from contracts.typed_data import Address, Digest, Domain, Signature, digest

_HALF_ORDER = bytes.fromhex("7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0")

_context = GLOBAL_CONTEXT.ctx
_parse = lib.secp256k1_ecdsa_recoverable_signature_parse_compact
_recover = lib.secp256k1_ecdsa_recover
_new_signature = partial(ffi.new, ffi.typeof("secp256k1_ecdsa_recoverable_signature *"))
_new_public = partial(ffi.new, ffi.typeof("secp256k1_pubkey *"))


class Key:
    """A secp256k1 private key that can sign and name its address, and never shows itself."""

    __slots__ = ("_private", "address")

    def __init__(self, secret: bytes) -> None:
        self._private = PrivateKey(secret)
        self.address = _address(self._private.public_key)

    @classmethod
    def generate(cls) -> "Key":
        """A new key from the operating system's randomness."""
        return cls(PrivateKey().secret)

    def reveal(self) -> bytes:
        """The 32 secret bytes, for a keystore file or a transaction signer; never for a log."""
        return self._private.secret

    def sign_digest(self, value: Digest) -> Signature:
        """r ‖ s ‖ v over 32 bytes that are already a hash."""
        raw = self._private.sign_recoverable(value, hasher=None)
        return Signature(raw[:64] + bytes([raw[64] + 27]))

    def sign(self, struct: msgspec.Struct, domain: Domain) -> Signature:
        """The EIP-712 signature of ``struct`` under ``domain``."""
        return self.sign_digest(digest(domain, struct))

    def __repr__(self) -> str:
        return f"Key(address=0x{self.address.hex()})"


@lru_cache(maxsize=4_096)  # a vote comes again in a polka, in a certificate, and in others' certificates
def recover(value: Digest, signature: bytes) -> Address:
    """The address that signed ``value``. Raises :class:`SignatureInvalid` on any malformed or high-s signature.

    What was recovered lately is remembered: the answer depends on nothing else.
    """
    if len(signature) != 65 or signature[64] not in (27, 28):
        raise SignatureInvalid("signature is not 65 bytes with v of 27 or 28")
    if signature[32:64] > _HALF_ORDER:
        raise SignatureInvalid("signature has a high s (EIP-2)")
    public = _recovered(value, signature)
    if public is None:
        raise SignatureInvalid("signature does not recover")
    return _address_of(public)


def _recovered(value: bytes, signature: bytes) -> bytes | None:
    """The public key as the library holds it; None where there is none. ``signature`` is r ‖ s ‖ v."""
    if len(value) != 32:  # the library reads as many, whatever there is
        return None
    parsed, public = _new_signature(), _new_public()
    if not _parse(_context, parsed, signature, signature[64] - 27):
        return None
    return bytes(ffi.buffer(public)) if _recover(_context, public, parsed, value) else None


@lru_cache(maxsize=16_384)  # routers, providers and session keys sign again and again
def _address_of(public: bytes) -> Address:
    """The address of a key as the library holds it."""
    held = _new_public()
    ffi.buffer(held)[:] = public
    return _address(PublicKey(held))


def _address(public: PublicKey) -> Address:
    return Address(keccak(public.format(compressed=False)[1:])[-20:])
