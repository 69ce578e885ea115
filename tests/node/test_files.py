"""Small files are written whole, and secrets are read only where they are private."""

from pathlib import Path

import pytest

from node.errors import KeystoreExposed, KeystoreMissing
from node.files import read_private, write_atomic


def test_written_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_atomic(path, b"one")
    assert path.read_bytes() == b"one"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_overwriting_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"one", mode=0o644)
    write_atomic(path, b"two", mode=0o644)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o644


def test_refusing_to_overwrite_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"one")
    with pytest.raises(FileExistsError):
        write_atomic(path, b"two", overwrite=False)
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644])
def test_exposed_secret_is_refused_with_the_command_to_type(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"x")
    path.chmod(mode)
    with pytest.raises(KeystoreExposed, match=f"chmod 600 {path}") as caught:
        read_private(path)
    assert caught.value.mode == mode


def test_missing_secret(tmp_path: Path) -> None:
    with pytest.raises(KeystoreMissing):
        read_private(tmp_path / "none")
