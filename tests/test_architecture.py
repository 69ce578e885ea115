"""The layout's rules: who may import whom, what pure code may not touch, and how large a module may grow."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("contracts", "gossip", "consensus", "inference", "node", "testnet")
TOP_LEVEL = {
    *FOLDERS,
    "tests",
    "pyproject.toml",
    "requirements.lock",
    "Makefile",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
}

CONTRACTS_PURE = {
    f"contracts.{name}"
    for name in ("amounts", "errors", "typed_data", "signing", "merkle", "emission", "budget", "payout")
}
PURE = (*CONTRACTS_PURE, "gossip.messages", "gossip.errors", "gossip.topics", "consensus")
PROTOCOL = (*CONTRACTS_PURE, "gossip.messages", "gossip.errors")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(CONTRACTS_PURE, tuple(CONTRACTS_PURE)),
    "contracts": ("contracts",),
    **dict.fromkeys(("gossip.messages", "gossip.errors", "gossip.topics"), (*PROTOCOL, "gossip.topics")),
    "gossip": (*PROTOCOL, "gossip"),
    "consensus": (*PROTOCOL, "consensus"),
    "inference": (*PROTOCOL, "consensus", "inference"),
    "node": (*FOLDERS[:4], "node"),
    "node.cli": (*FOLDERS[:4], "node", "testnet.cli"),
    "testnet": FOLDERS,
}
"""The first-party modules that each module may import; the longest matching name decides."""

OWNERS = {"libp2p": "gossip", "web3": "contracts.client", "xllamacpp": "inference", "exllamav2": "inference"}
"""Libraries that one place adapts and nobody else imports; ``contracts.client*`` counts as one place."""

IMPURE = {
    *("trio", "anyio", "asyncio", "threading", "signal", "subprocess", "time", "datetime", "random", "secrets", "uuid"),
    *("os", "sys", "io", "pathlib", "tempfile", "shutil", "glob", "sqlite3", "logging", "structlog"),
    *("socket", "ssl", "select", "httpx", "requests", "web3", "libp2p"),
}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}
LONGEST = 500

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def is_under(module: str, package: str) -> bool:
    """Whether ``module`` is ``package`` or lies in it."""
    return module == package or module.startswith(package + ".")


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module that is imported anywhere in ``tree``, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else base for name in names)


@pytest.fixture(params=MODULES, ids=str)
def module(request: pytest.FixtureRequest) -> tuple[str, str, ast.Module]:
    """A module's name, text and syntax tree."""
    name: str = request.param
    text = MODULES[name].read_text(encoding="utf-8")
    return name, text, ast.parse(text)


def test_imports_only_what_lies_below(module: tuple[str, str, ast.Module]) -> None:
    name, _, tree = module
    rule = max((key for key in MAY_IMPORT if is_under(name, key)), key=len)
    own = [target for target in imports(tree) if target.split(".")[0] in FOLDERS]
    wrong = [target for target in own if not any(is_under(target, allowed) for allowed in MAY_IMPORT[rule])]
    assert not wrong, f"{name} may not import {wrong}"


def test_libraries_stay_with_their_adapter(module: tuple[str, str, ast.Module]) -> None:
    name, _, tree = module
    wrong = [t for t in imports(tree) if (owner := OWNERS.get(t.split(".")[0])) and not name.startswith(owner)]
    assert not wrong, f"{name} may not import {wrong}"


def test_pure_code_touches_nothing(module: tuple[str, str, ast.Module]) -> None:
    name, _, tree = module
    if not any(is_under(name, package) for package in PURE):
        return
    wrong = [target for target in imports(tree) if target.split(".")[0] in IMPURE]
    calls = [n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert not wrong, f"{name} is pure and imports {wrong}"
    assert not IMPURE_CALLS & set(calls), f"{name} is pure and calls {IMPURE_CALLS & set(calls)}"


def test_modules_are_documented_and_short_and_assert_nothing(module: tuple[str, str, ast.Module]) -> None:
    name, text, tree = module
    assert ast.get_docstring(tree), f"{name} has no docstring"
    assert len(text.splitlines()) <= LONGEST, f"{name} is longer than {LONGEST} lines: make two rooms of it"
    asserts = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert not asserts, f"{name} validates with assert on lines {asserts}"


def test_top_level_holds_the_fixed_entries_only() -> None:
    made = {"build"}  # ignored by git
    found = {p.name for p in ROOT.iterdir() if not p.name.startswith(".") and p.suffix != ".egg-info"} - made
    assert found <= TOP_LEVEL, f"not in the layout: {sorted(found - TOP_LEVEL)}"
    assert found >= set(FOLDERS), "the test looks at the wrong folder"
