"""The signatures of exllamav2 that our adapter relies on, read from the package's sources; neither is imported.

``python -m tests.exl2.signatures`` compares the installed package with the checked-in extract and exits 1 where they
differ; ``--write`` makes the extract anew. The extract holds names and defaults alone, no code (exllamav2 is under the
MIT licence).
"""

import ast
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EXTRACT = Path(__file__).with_name("signatures.json")
RELEASE = "0.3.2"
WHEEL_SHA256 = "7cd61ae4bf1d8d12034595ab9731f0f43bac415d6394fbb273d4383293d6079e"
"""Of the wheel that the package index has of this release."""

CLASSES = {
    "ExLlamaV2": "model.py",
    "ExLlamaV2Config": "config.py",
    "ExLlamaV2Tokenizer": "tokenizer/tokenizer.py",
    "ExLlamaV2Cache": "cache.py",
    "ExLlamaV2Cache_Q4": "cache.py",
    "ExLlamaV2Cache_Q6": "cache.py",
    "ExLlamaV2Cache_Q8": "cache.py",
    "ExLlamaV2DynamicGenerator": "generator/dynamic.py",
    "ExLlamaV2DynamicJob": "generator/dynamic.py",
    "ExLlamaV2Sampler.Settings": "generator/sampler.py",
}
"""The classes that are extracted, and the files that they are in."""


def extract(package: Path) -> dict[str, Any]:
    """What the sources in ``package`` say."""
    callables: dict[str, str] = {}
    attributes: dict[str, list[str]] = {}
    for name, file in CLASSES.items():
        node = _find_class(_parse(package / file), name.split("."))
        callables |= dict(_callables(name, node))
        attributes[name] = sorted(_attributes(node))
    dynamic = _parse(package / "generator/dynamic.py")
    return {
        "package": f"exllamav2 {RELEASE}, MIT licence, wheel sha256 {WHEEL_SHA256}",
        "exports": sorted({*_imported(package / "__init__.py"), *_imported(package / "generator/__init__.py")}),
        "attn": sorted(_assigned(_parse(package / "attn.py").body)),
        "callables": callables,
        "attributes": attributes,
        "result_keys": sorted(_result_keys(dynamic)),
        "eos_reasons": sorted(_keyword_values(dynamic, "eos_reason")),
    }


def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _find_class(tree: ast.Module | ast.ClassDef, path: list[str]) -> ast.ClassDef:
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == path[0])
    return _find_class(found, path[1:]) if path[1:] else found


def _callables(name: str, node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """The class itself and its public methods, each as its parameters without ``self``; ``=`` marks a default."""
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if "dataclass" in decorators:
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
        yield name, ", ".join(ast.unparse(item.target) + "=" * (item.value is not None) for item in fields)
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and (item.name == "__init__" or not item.name.startswith("_")):
            static = any(ast.unparse(decorator) == "staticmethod" for decorator in item.decorator_list)
            parameters = _parameters(item.args)[0 if static else 1 :]
            yield name if item.name == "__init__" else f"{name}.{item.name}", ", ".join(parameters)


def _parameters(arguments: ast.arguments) -> list[str]:
    if arguments.kwonlyargs or arguments.vararg or arguments.posonlyargs:
        raise SystemExit("a parameter of a kind that the extract has no way to write")
    required = len(arguments.args) - len(arguments.defaults)
    found = [argument.arg + "=" * (index >= required) for index, argument in enumerate(arguments.args)]
    return [*found, *([f"**{arguments.kwarg.arg}"] if arguments.kwarg else [])]


def _attributes(node: ast.ClassDef) -> set[str]:
    """Names that an instance has: declared, assigned to ``self`` or defined."""
    names = _assigned(node.body) | {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    for item in ast.walk(node):
        if isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store) and ast.unparse(item.value) == "self":
            names.add(item.attr)
    return {name for name in names if not name.startswith("_")}


def _assigned(body: list[ast.stmt]) -> set[str]:
    targets = [t for item in body if isinstance(item, ast.Assign) for t in item.targets]
    targets += [item.target for item in body if isinstance(item, ast.AnnAssign)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _imported(file: Path) -> Iterator[str]:
    for node in _parse(file).body:
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def _result_keys(tree: ast.Module) -> set[str]:
    """Keys of the dictionaries that jobs and generator make, nearly all of them results."""
    dicts = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    keys = [key for node in dicts for key in node.keys if isinstance(key, ast.Constant)]
    return {key.value for key in keys if isinstance(key.value, str)}


def _keyword_values(tree: ast.Module, name: str) -> set[str]:
    keywords = [k for node in ast.walk(tree) if isinstance(node, ast.Call) for k in node.keywords if k.arg == name]
    values = {k.value.value for k in keywords if isinstance(k.value, ast.Constant)}
    return {value for value in values if isinstance(value, str)}


def installed() -> dict[str, Any]:
    """The extract of the installed package, which must be the release that ours was written to."""
    found = importlib.metadata.version("exllamav2")
    if found != RELEASE:
        raise SystemExit(f"exllamav2 {found} is installed, the extract is of {RELEASE}")
    spec = importlib.util.find_spec("exllamav2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("exllamav2 is not installed as a package")
    return extract(Path(spec.submodule_search_locations[0]))


def render(extracted: dict[str, Any]) -> str:
    """The extract as it is checked in."""
    short = {key: " ".join(value) if isinstance(value, list) else value for key, value in extracted.items()}
    short["attributes"] = {name: " ".join(names) for name, names in extracted["attributes"].items()}
    return json.dumps(short, indent=1) + "\n"


def main() -> None:
    """Compare, or write."""
    text = render(installed())
    if "--write" in sys.argv[1:]:
        EXTRACT.write_text(text)
    elif EXTRACT.read_text() != text:
        raise SystemExit(f"{EXTRACT.name} is not what exllamav2 {RELEASE} says; compare and run with --write")


if __name__ == "__main__":
    main()
