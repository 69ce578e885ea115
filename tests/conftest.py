"""What holds for every test.

Chance is the same in every run, so that no test fails a newcomer by bad luck: a test that draws takes the fixture
``chance`` and names its seed, and hypothesis derives its examples from the test itself. ``--explore`` draws anew
(``make explore`` does so for as long as asked), and ``--seed`` repeats what a run with ``--explore`` found.
"""

import random
import sys

import pytest
from hypothesis import is_hypothesis_test, settings

LIMIT = sys.getrecursionlimit()
SEEDS = 2**32

settings.register_profile("fixed", derandomize=True, database=None)
settings.register_profile("explore", print_blob=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Two options of this suite."""
    group = parser.getgroup("chance")
    group.addoption("--explore", action="store_true", help="run only tests that draw, each with a new seed")
    group.addoption("--seed", type=int, help="the seed of the fixture `chance`, instead of the one in the test")


def pytest_configure(config: pytest.Config) -> None:
    """Hypothesis' settings have to stand before the first test module is read."""
    settings.load_profile("explore" if config.getoption("--explore") else "fixed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``--explore``, what draws nothing would only pass once more."""
    if not config.getoption("--explore"):
        return
    drawing = [item for item in items if _draws(item)]
    config.hook.pytest_deselected(items=[item for item in items if not _draws(item)])
    items[:] = drawing


def _draws(item: pytest.Item) -> bool:
    return "chance" in getattr(item, "fixturenames", ()) or is_hypothesis_test(getattr(item, "obj", None))


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Random choices of a test, by the seed in its marker ``seed``."""
    marker = request.node.get_closest_marker("seed")
    if marker is None:
        raise pytest.UsageError(f"{request.node.nodeid} draws by chance and names no seed: @pytest.mark.seed(1)")
    seed = request.config.getoption("--seed")
    if seed is None:
        explores = request.config.getoption("--explore")
        seed = random.SystemRandom().randrange(SEEDS) if explores else marker.args[0]
    print(f"seed {seed}; again: python -m pytest '{request.node.nodeid}' --seed {seed}")
    return random.Random(seed)


@pytest.fixture(autouse=True)
def recursion_limit() -> None:
    """Tests that import a chain library leave py_ecc's limit behind; a node never runs under it (node/recursion.py)."""
    sys.setrecursionlimit(LIMIT)
