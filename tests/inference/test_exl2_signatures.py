"""Every call, argument, attribute and result key of exllamav2 that our adapter uses is one that the package has.

Bound by its syntax tree to signatures extracted from the package's sources: needs neither the package nor a GPU.
"""

import ast
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ADAPTER = ROOT / "inference" / "exllamav2" / "generator.py"
DEVICES = ROOT / "inference" / "exllamav2" / "devices.py"
COUNTING = ROOT / "inference" / "exllamav2" / "counting.py"
EXTRACT: dict[str, Any] = json.loads((ROOT / "tests" / "exl2" / "signatures.json").read_text())
CACHES = ("ExLlamaV2Cache", "ExLlamaV2Cache_Q4", "ExLlamaV2Cache_Q6", "ExLlamaV2Cache_Q8")
RECEIVERS = {
    "config": "ExLlamaV2Config",
    "self._config": "ExLlamaV2Config",
    "model": "ExLlamaV2",
    "self._model": "ExLlamaV2",
    "tokenizer": "ExLlamaV2Tokenizer",
    "self._tokenizer": "ExLlamaV2Tokenizer",
    "self._generator": "ExLlamaV2DynamicGenerator",
}
"""The adapter's names for the package's objects. ``kind`` is one of the caches."""


class Unbound(Exception):
    """The package has no such thing."""


def signature(name: str) -> inspect.Signature:
    if name not in EXTRACT["callables"]:
        raise Unbound(f"exllamav2 has no {name}")
    parameters = []
    for word in parameters_of(name):
        if word.startswith("**"):
            parameters.append(inspect.Parameter(word[2:], inspect.Parameter.VAR_KEYWORD))
        else:
            default = None if word.endswith("=") else inspect.Parameter.empty
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            parameters.append(inspect.Parameter(word.removesuffix("="), kind, default=default))
    return inspect.Signature(parameters)


def parameters_of(name: str) -> list[str]:
    return [word for word in EXTRACT["callables"].get(name, "").split(", ") if word]


def bind(name: str, call: ast.Call) -> None:
    """A keyword that only ``**kwargs`` would take is a mistake too: the package ignores those silently."""
    known = {word.removesuffix("=") for word in parameters_of(name) if not word.startswith("**")}
    keywords = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    if unknown := keywords.keys() - known:
        raise Unbound(f"line {call.lineno}: {name} has no {sorted(unknown)}")
    try:
        signature(name).bind(*call.args, **keywords)
    except TypeError as error:
        raise Unbound(f"line {call.lineno}: {name}: {error}") from error


def check_calls(tree: ast.AST) -> Iterator[str]:
    """What was bound."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        receiver, _, method = name.rpartition(".")
        if name == "kind":
            for cache in CACHES:
                bind(cache, node)
                yield cache
        elif name.startswith("exllamav2."):
            own = name.removeprefix("exllamav2.").removeprefix("generator.")
            bind(own, node)
            yield own
        elif receiver in RECEIVERS:
            bind(f"{RECEIVERS[receiver]}.{method}", node)
            yield f"{RECEIVERS[receiver]}.{method}"


def check_attributes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        receiver = ast.unparse(node.value)
        if receiver in RECEIVERS and node.attr not in EXTRACT["attributes"][RECEIVERS[receiver]].split():
            raise Unbound(f"line {node.lineno}: {RECEIVERS[receiver]} has no {node.attr}")
        if receiver == "exllamav2.attn" and node.attr not in EXTRACT["attn"].split():
            raise Unbound(f"line {node.lineno}: exllamav2.attn has no {node.attr}")
        exported = node.attr in {"attn", "generator"} or node.attr in EXTRACT["exports"].split()
        if receiver in {"exllamav2", "exllamav2.generator"} and not exported:
            raise Unbound(f"line {node.lineno}: exllamav2 exports no {node.attr}")
        yield f"{receiver}.{node.attr}"


def check_result_keys(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        key: ast.expr | None = None
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "result":
            key = node.slice
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "result.get":
            key = node.args[0]
        if isinstance(key, ast.Constant):
            if key.value not in EXTRACT["result_keys"].split():
                raise Unbound(f"line {key.lineno}: no result has {key.value!r}")
            yield str(key.value)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_every_call_binds() -> None:
    bound = set(check_calls(parse(ADAPTER)))
    wanted = {
        *CACHES,
        *("ExLlamaV2", "ExLlamaV2Config", "ExLlamaV2Tokenizer"),
        *("ExLlamaV2DynamicGenerator", "ExLlamaV2DynamicJob", "ExLlamaV2Sampler.Settings"),
        *("ExLlamaV2Sampler.Settings.greedy", "ExLlamaV2.load", "ExLlamaV2.load_autosplit"),
        *(f"ExLlamaV2DynamicGenerator.{name}" for name in ("enqueue", "cancel", "iterate", "reset_page_table")),
        *(f"ExLlamaV2Tokenizer.{name}" for name in ("encode_special", "encode_unspecial", "decode")),
    }
    assert wanted <= bound


def test_every_attribute_and_result_key_is_there() -> None:
    seen = {*check_attributes(parse(ADAPTER)), *check_attributes(parse(DEVICES))}
    assert {"exllamav2.attn.has_flash_attn_with_paged", "self._generator.unreferenced_pages"} <= seen
    keys = {*check_result_keys(parse(ADAPTER)), *check_result_keys(parse(COUNTING))}
    assert keys == {"stage", "identifier", "eos", "cached_tokens", "eos_reason", "text", "token_ids", "held"}
    assert "generation_config" in EXTRACT["attributes"]["ExLlamaV2Config"].split()
    cases = {n.value.value for n in ast.walk(parse(COUNTING)) if isinstance(n, ast.MatchValue)}  # type: ignore[attr-defined]  # strings all
    assert cases == {"stop_token", "stop_string"} < set(EXTRACT["eos_reasons"].split())
    assert set(EXTRACT["eos_reasons"].split()) == {"stop_token", "stop_string", "max_new_tokens", "end_filter"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max_new_tokens=", "max_tokens="),
        ("callback=on_loading", "progress_callback=on_loading"),
        ("self._generator.enqueue(job)", "self._generator.enqueue(job, 1, 2)"),
        (".Settings.greedy()", ".Settings.argmax()"),
        ("max_seq_len=settings.cache_tokens", "tokens=settings.cache_tokens"),
    ],
)
def test_a_call_that_the_package_lacks_is_found(old: str, new: str) -> None:
    text = ADAPTER.read_text(encoding="utf-8")
    assert old in text
    with pytest.raises(Unbound):
        list(check_calls(ast.parse(text.replace(old, new))))


def test_an_attribute_or_key_that_the_package_lacks_is_found() -> None:
    text = ADAPTER.read_text(encoding="utf-8")
    with pytest.raises(Unbound, match="pending"):
        list(check_attributes(ast.parse(text.replace("pending_jobs", "pending_work"))))
    with pytest.raises(Unbound, match="step"):
        list(check_result_keys(ast.parse(text.replace('"stage"', '"step"'))))
