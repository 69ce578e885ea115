"""The sources' own rules: external functions are documented, reverts say whose they are, parts stand in order."""

import re

import pytest
from vyper.ast import nodes, parse_to_ast

from contracts.artifacts import CONTRACT_NAMES, MODULE_NAMES
from contracts.build import SOURCES_DIR

SPOKEN_FOR = {"emission_source": "source"}
"""Whose reverts are not named after the file."""

ORDER = (
    nodes.Import,
    nodes.ImportFrom,
    nodes.ImplementsDecl,
    nodes.InterfaceDef,
    nodes.StructDef,
    nodes.EventDef,
    nodes.VariableDecl,
    nodes.FunctionDef,
)


@pytest.fixture(params=[*CONTRACT_NAMES, *MODULE_NAMES])
def source(request: pytest.FixtureRequest) -> tuple[str, str, nodes.Module]:
    name: str = request.param
    text = (SOURCES_DIR / f"{name}.vy").read_text(encoding="utf-8")
    return name, text, parse_to_ast(text)


def decorators(function: nodes.FunctionDef) -> set[str]:
    return {one.id for one in function.decorator_list if isinstance(one, nodes.Name)}


def external(tree: nodes.Module) -> list[nodes.FunctionDef]:
    functions = tree.get_children(nodes.FunctionDef)
    return [one for one in functions if decorators(one) & {"external", "deploy"}]


def test_the_file_says_what_it_is(source: tuple[str, str, nodes.Module]) -> None:
    _, _, tree = source
    assert tree.doc_string is not None
    assert {"@title", "@license", "@notice"} <= set(tree.doc_string.value.split())


def test_every_external_function_is_documented_whole(source: tuple[str, str, nodes.Module]) -> None:
    _, _, tree = source
    for function in external(tree):
        said = function.doc_string.value if function.doc_string is not None else ""
        wanted = [f"@param {argument.arg} " for argument in function.args.args]
        wanted += ["@notice "] + (["@return "] if function.returns is not None else [])
        assert [tag for tag in wanted if tag not in said] == [], function.name
        assert len(re.findall(r"@param ", said)) == len(function.args.args), function.name


def test_every_getter_has_its_notice(source: tuple[str, str, nodes.Module]) -> None:
    name, text, tree = source
    lines = text.splitlines()
    plain = {"totalSupply", "balanceOf", "allowance", "name", "symbol", "decimals"}  # ERC-20's own
    for variable in tree.get_children(nodes.VariableDecl):
        if not variable.is_public or variable.target.id in plain:
            continue
        above = variable.lineno - 2
        while lines[above].startswith(("# ", *(f"{kind}: public" for kind in ("PREVOTE", "PROPOSAL", "PRECOMMIT")))):
            if lines[above].startswith("# @notice"):
                break
            above -= 1
        assert lines[above].startswith("# @notice"), (name, variable.target.id)


def test_every_revert_names_module_and_reason(source: tuple[str, str, nodes.Module]) -> None:
    name, _, tree = source
    for statement in tree.get_descendants(nodes.Assert):
        assert isinstance(statement.msg, nodes.Str), (name, statement.lineno)
        prefix = SPOKEN_FOR.get(name, name)
        assert re.fullmatch(rf"{prefix}: [a-z0-9 ]+", statement.msg.value), statement.msg.value
    assert not list(tree.get_descendants(nodes.Raise)), "reasons belong to assertions"


def test_declarations_stand_in_their_order(source: tuple[str, str, nodes.Module]) -> None:
    _, _, tree = source
    places = [ORDER.index(type(node)) for node in tree.body if type(node) in ORDER]
    kinds = [place if place > 2 else 0 for place in places]
    assert kinds == sorted(kinds)
    functions = [decorators(one) for one in tree.get_children(nodes.FunctionDef)]
    ranks = [0 if "deploy" in one else 1 if "external" in one else 2 for one in functions]
    assert ranks == sorted(ranks), "the constructor, external functions, internal ones"
