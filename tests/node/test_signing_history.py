"""The history file: whole or refused, with the line that is wrong."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.tendermint.types import Step
from contracts.signing import Key
from contracts.typed_data import Digest
from node.errors import HistoryInvalid
from node.signing_history import NOWHERE, History, Place, SignedRecord, decode_history, encode_history
from tests.node.builders import DOMAIN

KEY = Key(b"\x71" * 32)
OTHER = Key(b"\x72" * 32)
PATH = Path("history.jsonl")
U63 = st.integers(0, 2**63 - 1)
PLACES = st.builds(Place, U63, U63, st.sampled_from([Step.PROPOSE, Step.PREVOTE, Step.PRECOMMIT]))


def record(place: Place, value: bytes = b"\x01" * 32, key: Key = KEY, why: str = "") -> SignedRecord:
    return SignedRecord(place, Digest(value), key.sign_digest(Digest(value)), 1_700_000_000_000, why)


def history(*records: SignedRecord) -> History:
    return History(KEY.address, DOMAIN, max((each.place for each in records), default=NOWHERE), records)


THREE = history(*(record(Place(height, 0, Step.PREVOTE), why='a "reason"\n') for height in (1, 2, 3)))


@given(
    st.lists(st.tuples(PLACES, st.binary(min_size=32, max_size=32), st.text()), max_size=5, unique_by=lambda t: t[0])
)
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_read(rows: list[tuple[Place, bytes, str]]) -> None:
    made = history(*(record(place, value, why=why) for place, value, why in sorted(rows)))
    assert decode_history(PATH, encode_history(made)) == made


def test_every_line_is_json_and_nothing_is_secret() -> None:
    lines = [json.loads(line) for line in encode_history(THREE).splitlines()]
    assert len(lines) == 5
    assert lines[0]["address"] == KEY.address.hex()
    assert KEY.reveal().hex() not in encode_history(THREE).decode()


def test_cut_anywhere_it_is_refused() -> None:
    whole = encode_history(THREE)
    for length in range(len(whole) - 1):  # without the last newline it is still whole
        with pytest.raises(HistoryInvalid):
            decode_history(PATH, whole[:length])
    assert decode_history(PATH, whole[:-1]) == THREE


def test_flipped_anywhere_it_is_refused() -> None:
    whole = encode_history(THREE)
    for offset in range(len(whole) - 1):
        with pytest.raises(HistoryInvalid):
            decode_history(PATH, whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])


def sealed(lines: list[dict[str, Any]]) -> bytes:
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return body + json.dumps({"blake2b": hashlib.blake2b(body, digest_size=32).hexdigest()}).encode()


def edit(line: int, key: str, value: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda lines: lines[line].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "line", "reason"),
    [
        (edit(0, "version", 2), 1, "version"),
        (edit(0, "format", "x"), 1, "format"),
        (edit(0, "address", "zz" * 20), 1, "hexadecimal"),
        (edit(0, "address", "aa" * 19), 1, "20 bytes"),
        (edit(0, "height", -1), 1, "height"),
        (edit(0, "height", 2**63), 1, "height"),
        (edit(0, "height", 2), 4, "above the watermark"),
        (edit(1, "step", "none"), 2, "step"),
        (edit(1, "extra", 1), 2, "extra"),
        (edit(2, "digest", "bb" * 32), 3, "has not made this signature"),
        (edit(2, "signature", "00" * 65), 3, "has not made this signature"),
        (edit(2, "signature", record(NOWHERE, key=OTHER).signature.hex()), 3, "has not made this signature"),
        (edit(2, "height", 1), 3, "out of order"),
        (lambda lines: lines.clear(), 1, "no heading"),
        (lambda lines: lines.pop(0), 1, "field"),
    ],
)
def test_an_edited_file_is_refused_with_its_line(
    change: Callable[[list[dict[str, Any]]], None], line: int, reason: str
) -> None:
    lines = [json.loads(each) for each in encode_history(THREE).splitlines()[:-1]]
    assert decode_history(PATH, sealed(lines)) == THREE
    change(lines)
    with pytest.raises(HistoryInvalid, match=reason) as caught:
        decode_history(PATH, sealed(lines))
    assert caught.value.line == line
