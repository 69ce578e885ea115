"""What we write, tomllib reads back equal."""

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import toml

_text = st.text(st.characters(codec="utf-8"), max_size=20)
_scalars = st.booleans() | st.integers(-(2**300), 2**300) | _text | st.floats(allow_nan=False, allow_infinity=False)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=4), max_leaves=12
)


@settings(max_examples=100)
@given(st.dictionaries(_text, _values, max_size=5))
def test_round_trip(document: dict[str, toml.Value]) -> None:
    assert tomllib.loads(toml.dumps(document)) == document


def test_scalars_come_before_tables() -> None:
    document: dict[str, toml.Value] = {"table": {"inner": 1}, "scalar": 2}
    assert tomllib.loads(toml.dumps(document)) == document


def test_what_toml_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="None"):
        toml.dumps({"key": None})  # type: ignore[dict-item]  # the point of the test
