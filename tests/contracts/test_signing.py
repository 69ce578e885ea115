import pytest
from eth_account import Account
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import SignatureInvalid
from contracts.signing import Key, recover
from contracts.typed_data import Digest

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

SECRETS = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32, "big"))
DIGESTS = st.binary(min_size=32, max_size=32).map(Digest)


@given(SECRETS, DIGESTS)
@settings(max_examples=50, deadline=None)
def test_a_signature_recovers_to_its_key_and_is_eth_accounts(secret: bytes, value: Digest) -> None:
    key = Key(secret)
    signature = key.sign_digest(value)
    assert recover(value, signature) == key.address
    assert "0x" + key.address.hex() == Account.from_key(secret).address.lower()
    assert signature == bytes(Account.unsafe_sign_hash(value, secret).signature)


@given(SECRETS, DIGESTS)
@settings(max_examples=50, deadline=None)
def test_the_twin_with_a_high_s_is_refused(secret: bytes, value: Digest) -> None:
    signature = Key(secret).sign_digest(value)
    high = ORDER - int.from_bytes(signature[32:64], "big")
    twin = signature[:32] + high.to_bytes(32, "big") + bytes([55 - signature[64]])
    assert Account._recover_hash(value, signature=twin).lower() == "0x" + Key(secret).address.hex()
    with pytest.raises(SignatureInvalid, match="high s"):
        recover(value, twin)


@given(SECRETS, DIGESTS, st.integers(0, 255).filter(lambda v: v not in (27, 28)))
@settings(max_examples=50, deadline=None)
def test_another_v_is_refused(secret: bytes, value: Digest, v: int) -> None:
    with pytest.raises(SignatureInvalid, match="v of 27 or 28"):
        recover(value, Key(secret).sign_digest(value)[:64] + bytes([v]))


@given(st.binary(max_size=80), DIGESTS)
@settings(max_examples=80, deadline=None)
def test_random_bytes_are_refused_or_recover_to_a_stranger(data: bytes, value: Digest) -> None:
    try:
        signer = recover(value, data)
    except SignatureInvalid:
        return
    assert len(signer) == 20
    assert len(data) == 65


@given(st.binary(min_size=64, max_size=64), DIGESTS, st.sampled_from([27, 28]))
@settings(max_examples=80, deadline=None)
def test_random_points_are_refused_or_recover_to_a_stranger(data: bytes, value: Digest, v: int) -> None:
    low = data[:32] + bytes([data[32] & 0x3F]) + data[33:]
    try:
        signer = recover(value, low + bytes([v]))
    except SignatureInvalid:
        return
    assert signer != Key(b"\x01" * 32).address


@pytest.mark.parametrize("zeroed", [slice(0, 32), slice(32, 64)])
def test_a_zero_r_or_s_is_refused(zeroed: slice) -> None:
    value = Digest(keccak(b"anything"))
    signature = bytearray(Key(b"\x01" * 32).sign_digest(value))
    signature[zeroed] = bytes(32)
    with pytest.raises(SignatureInvalid, match="does not recover"):
        recover(value, bytes(signature))


def test_a_changed_digest_recovers_to_somebody_else() -> None:
    key = Key.generate()
    signature = key.sign_digest(Digest(keccak(b"one")))
    assert recover(Digest(keccak(b"two")), signature) != key.address


def test_a_key_never_shows_itself() -> None:
    key = Key(b"\x07" * 32)
    assert "07" * 8 not in repr(key)
    assert key.reveal() == b"\x07" * 32
