"""The model's folder, and what both kinds of machine are asked."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def folder() -> Path:
    """The default model as a GPTQ folder."""
    from tests.exl2.gguf_folder import make_folder

    return make_folder()


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    """The worker's log."""
    return tmp_path / "engine.log"
