"""A user's own count: vocabularies out of files, ids against text, and frames that claim more T than text."""

import json
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.messages.base import encode
from gossip.messages.session import TokenFrame
from inference.errors import SessionError, VocabularyInvalid
from inference.session.client import open_session
from inference.synthetic import SyntheticEngine
from inference.vocabulary import TextCheck, Vocabulary
from inference.vocabulary_files import Truncated, read_gguf, read_tokenizer_json
from tests.inference.gguf_header import bpe_fields, make_gguf
from tests.inference.market import BODY, SESSION, TERMS, make_ticket, ticking
from tests.inference.memory_stream import stream_pair

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENS = ["<|end|>", "Ġ", "Ċ", *LETTERS, "th", "the", "Ġthe", "Ġt", "ĊĊ", "ĠĠ", "â", "ĺ", "ĥ"]
MERGES = ["t h", "th e", "Ġ t", "Ġ the", "Ċ Ċ", "Ġ Ġ"]
FIELDS = bpe_fields(TOKENS, MERGES, control=["<|end|>"])
ID = {token: number for number, token in enumerate(TOKENS)}


def ids(*tokens: str) -> tuple[int, ...]:
    return tuple(ID[token] for token in tokens)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return read_gguf(make_gguf(FIELDS))


def test_a_byte_level_vocabulary(vocabulary: Vocabulary) -> None:
    assert [vocabulary.pieces[one] for one in ids("<|end|>", "Ġ", "Ċ", "a", "Ġthe", "â")] == [
        None, b" ", b"\n", b"a", b" the", b"\xe2",
    ]  # fmt: skip


def test_the_same_vocabulary_from_a_folder(vocabulary: Vocabulary) -> None:
    for merges in (MERGES, [merge.split(" ") for merge in MERGES]):
        document = {
            "model": {"type": "BPE", "vocab": {token: ID[token] for token in TOKENS[1:]}, "merges": merges},
            "added_tokens": [{"id": 0, "content": "<|end|>", "special": True}],
            "decoder": {"type": "ByteLevel"},
            "normalizer": None,
        }
        found = read_tokenizer_json(json.dumps(document).encode())
        assert found.pieces == vocabulary.pieces
        assert found.count(ids("t", "h", "e")) == 1


def test_a_vocabulary_with_scores() -> None:
    tokens = ["<s>", "<0x0A>", "\u2581", "a", "b", "ab", "\u2581ab"]
    fields = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0],
        "tokenizer.ggml.token_type": [3, 6, 1, 1, 1, 1, 1],
    }
    found = read_gguf(make_gguf(fields))
    assert found.pieces == (None, b"\n", b" ", b"a", b"b", b"ab", b" ab")
    assert found.count((2, 3, 4)) == 1
    check = TextCheck(found)
    assert check.take("ab\n", (6, 1)) is None, "the space before the first word is not text"


def test_the_count_is_the_tokenizers_not_the_providers(vocabulary: Vocabulary) -> None:
    assert vocabulary.count(ids("Ġthe", "Ġthe", "a")) == 3
    assert vocabulary.count(ids("Ġ", "t", "h", "e", "Ġ", "t", "h", "e", "a")) == 3
    assert vocabulary.count(ids("Ġ", "Ġ", "Ġ", "Ġ")) == 2, "white space can be cut too"
    assert vocabulary.count(ids("a", "Ċ", "Ċ", "a")) == 4, "lines end one by one"
    assert vocabulary.count(ids("<|end|>", "a", "<|end|>")) == 1
    assert vocabulary.count(ids("t", "h") * 1_000) == 1_000


@given(st.lists(st.sampled_from(TOKENS[1:]), min_size=1, max_size=60), st.integers(1, 9))
def test_ids_that_say_the_text_agree_however_they_come(tokens: list[str], step: int) -> None:
    found = read_gguf(make_gguf(FIELDS))
    check, one = TextCheck(found), TextCheck(found)
    text = b"".join(found.pieces[number] or b"" for number in ids(*tokens)).decode(errors="replace")
    whole = ids(*tokens)
    assert check.take(text, ()) is None, "text may be ahead of its ids"
    for at in range(0, len(whole), step):
        assert check.take("", whole[at : at + step]) is None
    assert one.take(text, whole) is None
    assert check.count() == one.count() <= len(whole)


@pytest.mark.parametrize(
    ("text", "claimed", "reason"),
    [
        ("the", ("a",), "other text"),
        ("the", ("the", "a"), None),  # perhaps text that is still to come
        ("a", ("b",) * 400, "other text"),
        ("", ("a",) * 400, "400 characters more"),
        ("a", (), None),
    ],
)
def test_ids_that_say_something_else(
    vocabulary: Vocabulary, text: str, claimed: tuple[str, ...], reason: str | None
) -> None:
    found = TextCheck(vocabulary).take(text, ids(*claimed))
    assert (found is None) if reason is None else (found is not None and reason in found)


def test_ids_of_no_vocabulary_are_named(vocabulary: Vocabulary) -> None:
    assert "1000 is no id" in str(TextCheck(vocabulary).take("a", (1_000,)))


async def _served(vocabulary: Vocabulary, *frames: TokenFrame) -> tuple[int, int, bool]:
    """T that the user reports, T that it vouches for, and whether it counted, after a provider that only says this."""
    user, provider = stream_pair()
    ticket = make_ticket(SyntheticEngine(), token_max=1_000)
    for frame in frames:
        await provider.send(encode(frame))
    async with open_session(user, ticket, BODY, SESSION, TERMS, ticking(), vocabulary=vocabulary) as session:
        with pytest.raises(SessionError) as ended:
            async for _ in session.pieces():
                pass
    outcome = session.outcome
    assert outcome.interrupted == str(ended.value.code)
    return outcome.tokens, 0 if outcome.voucher is None else outcome.voucher.payload.tokens, outcome.recounted


async def test_a_lie_ends_the_session_before_it_is_vouched_for(vocabulary: Vocabulary) -> None:
    true = TokenFrame("the the", ids("the", "Ġthe"), 2)
    lie = TokenFrame("cat", ids("d", "o", "g"), 5)
    with trio.fail_after(10):
        assert await _served(vocabulary, true, lie) == (2, 2, False)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_vocabulary_or_an_error(data: bytes) -> None:
    for read in (read_gguf, read_tokenizer_json):
        with pytest.raises((Truncated, VocabularyInvalid)):
            read(data)


@settings(max_examples=200)
@given(st.data())
def test_damaged_headers_are_an_error_or_another_vocabulary(data: st.DataObject) -> None:
    header = bytearray(make_gguf(FIELDS))
    for _ in range(data.draw(st.integers(1, 4))):
        header[data.draw(st.integers(4, len(header) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert isinstance(read_gguf(bytes(header)), Vocabulary)
    except (Truncated, VocabularyInvalid):
        return


def test_a_cut_header_asks_for_more() -> None:
    header = make_gguf(FIELDS)
    for size in range(0, len(header) - 1, 7):
        with pytest.raises(Truncated):
            read_gguf(header[:size])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokenizer.ggml.model": "bert"}, "bert"),
        ({"tokenizer.ggml.tokens": "none"}, "list of tokens"),
        ({"tokenizer.ggml.token_type": [1]}, "token_type"),
        ({"tokenizer.ggml.merges": 7}, "list of merges"),
        ({"tokenizer.ggml.model": "llama"}, "scores"),
    ],
)
def test_headers_of_another_kind_are_named(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(VocabularyInvalid, match=reason):
        read_gguf(make_gguf({**FIELDS, **changes}))


@pytest.mark.parametrize(
    "document",
    [
        {"model": {"type": "Unigram", "vocab": {}, "merges": []}},
        {"model": {"vocab": {"a": -1}, "merges": []}},
        {"model": {"vocab": {"a": 1 << 21}, "merges": []}},
        {"model": {"vocab": {}, "merges": []}},
        {"model": {"vocab": {"a": "b"}, "merges": []}},
    ],
)
def test_folders_of_another_kind_are_named(document: dict[str, Any]) -> None:
    with pytest.raises(VocabularyInvalid):
        read_tokenizer_json(json.dumps(document).encode())
