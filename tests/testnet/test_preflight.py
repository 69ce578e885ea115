"""The preflight names all that is missing in one message, with the command that brings it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testnet import preflight


def test_everything_is_named_in_one_message() -> None:
    missing = [preflight.COMPILER, preflight.GMP, preflight.NPM]
    text = preflight.describe(missing, "apt-get", is_root=False)
    assert all(need.what in text for need in missing)
    assert "    sudo apt-get install -y gcc libc6-dev libgmp-dev npm\n" in text
    assert "Nothing has been installed" in text


@pytest.mark.parametrize(
    ("installer", "is_root", "line"),
    [
        ("apt-get", True, "    apt-get install -y libgmp-dev"),
        ("dnf", False, "    sudo dnf install -y gmp-devel"),
        ("brew", False, "    brew install gmp"),
        (None, False, "packages are called\nlibgmp-dev"),
    ],
)
def test_the_command_is_the_platforms_own(installer: str | None, is_root: bool, line: str) -> None:
    assert line in preflight.describe([preflight.GMP], installer, is_root=is_root)


def test_an_old_python_is_told_how_to_use_a_newer_one() -> None:
    assert "PYTHON=python3.12" in preflight.describe([preflight.PYTHON], "apt-get", is_root=True)


def test_packages_are_named_once() -> None:
    assert preflight.compute_packages([preflight.NODE, preflight.NPM], "brew") == ["node"]
    assert preflight.compute_packages([preflight.VENV, preflight.PYTHON], "brew") == ["python@3.12"]


@pytest.mark.parametrize("need", [value for value in vars(preflight).values() if isinstance(value, preflight.Need)])
def test_every_need_has_a_package_everywhere(need: preflight.Need) -> None:
    assert set(need.packages) == set(preflight.INSTALLERS)


def test_a_bare_machine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert preflight.main([]) == 1
    told = capsys.readouterr().err
    assert all(need.what in told for need in (preflight.COMPILER, preflight.NODE, preflight.NPM))


def test_a_header_is_found_by_the_compiler_or_in_a_folder(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    assert compiler is not None, "the suite's own packages were built with one"
    assert preflight.has_header(compiler, "stdio.h", [])
    assert not preflight.has_header(compiler, "no-such-header.h", [])
    assert not preflight.has_header(None, "stdio.h", [tmp_path])
    (tmp_path / "stdio.h").touch()
    assert preflight.has_header(None, "stdio.h", [tmp_path])


def test_it_runs_as_a_script_without_the_projects_packages() -> None:
    script = Path(preflight.__file__)
    done = subprocess.run([sys.executable, "-I", "-S", str(script), "--packages"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
