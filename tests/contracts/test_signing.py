from concurrent.futures import ThreadPoolExecutor

import pytest
from coincurve import PublicKey
from eth_account import Account
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import SignatureInvalid
from contracts.signing import Key, recover
from contracts.typed_data import Address, Digest

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


def by_coincurve(value: bytes, signature: bytes) -> Address | str:
    """The rule in coincurve's own words: who signed, or what is wrong."""
    if len(signature) != 65 or signature[64] not in (27, 28):
        return "signature is not 65 bytes with v of 27 or 28"
    if int.from_bytes(signature[32:64], "big") > ORDER // 2:
        return "signature has a high s (EIP-2)"
    try:
        public = PublicKey.from_signature_and_message(signature[:64] + bytes([signature[64] - 27]), value, hasher=None)
    except Exception:  # noqa: BLE001  # all that coincurve raises
        return "signature does not recover"
    return Address(keccak(public.format(compressed=False)[1:])[-20:])


def by_ours(value: bytes, signature: bytes) -> Address | str:
    try:
        return recover(Digest(value), signature)
    except SignatureInvalid as error:
        return str(error)


NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, ORDER // 2, ORDER // 2 + 1, ORDER - 1, ORDER, ORDER + 1, 2**255, 2**256 - 1]),
    st.integers(0, 2**256 - 1),
    st.integers(1, ORDER // 2),
)


@st.composite
def signatures(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """What was signed and a signature: a good one, one with a part put in its place, or one of no key at all."""
    value = draw(DIGESTS)
    good = Key(draw(SECRETS)).sign_digest(value)
    r = draw(st.one_of(st.just(good[:32]), NUMBERS.map(lambda number: number.to_bytes(32, "big"))))
    s = draw(st.one_of(st.just(good[32:64]), NUMBERS.map(lambda number: number.to_bytes(32, "big"))))
    v = draw(st.sampled_from([good[64], 27, 28, 0, 1, 26, 29, 255]))
    whole = r + s + bytes([v])
    cut = draw(st.one_of(st.just(65), st.integers(0, 65)))
    other = draw(st.one_of(st.just(value), DIGESTS, st.binary(max_size=40)))
    return other, whole[:cut] + draw(st.sampled_from([b"", b"\x00"]))


@given(signatures())
@settings(max_examples=300, deadline=None)
def test_it_is_coincurves_answer_whatever_is_asked(asked: tuple[bytes, bytes]) -> None:
    assert by_ours(*asked) == by_coincurve(*asked)


def test_threads_do_not_share_what_the_library_writes_into() -> None:
    keys = [Key(bytes([number]) * 32) for number in range(1, 9)]
    values = [Digest(keccak(b"%d" % number)) for number in range(40)]
    asked = [(key, value, key.sign_digest(value)) for value in values for key in keys]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: recover.__wrapped__(*one[1:]), asked))
    assert found == [key.address for key, *_ in asked]


def test_a_changed_digest_recovers_to_somebody_else() -> None:
    key = Key.generate()
    signature = key.sign_digest(Digest(keccak(b"one")))
    assert recover(Digest(keccak(b"two")), signature) != key.address


def test_a_key_never_shows_itself() -> None:
    key = Key(b"\x07" * 32)
    assert "07" * 8 not in repr(key)
    assert key.reveal() == b"\x07" * 32
