"""Write small files whole or not at all, and read secret ones only where nobody else can."""

import os
import secrets
import stat
from pathlib import Path

from node.errors import KeystoreExposed, KeystoreMissing

PRIVATE = 0o600
"""Owner only."""


def write_atomic(path: Path, data: bytes, *, mode: int = PRIVATE, overwrite: bool = True) -> None:
    """Put ``data`` at ``path`` so that a crash leaves the old file or the new one, never half of one.

    Raises FileExistsError where ``path`` exists and ``overwrite`` is false (also against a writer at the same time),
    and OSError where the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            file.write(data)
            file.flush()
            os.fsync(handle)
        if overwrite:
            temporary.replace(path)
        else:
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def read_private(path: Path) -> bytes:
    """The contents of a file that holds a secret.

    Raises :class:`KeystoreMissing`, and :class:`KeystoreExposed` where group or others have any right to it: the check
    is made on the open file, so that it cannot be swapped in between.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise KeystoreExposed(path, mode)
            return file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise KeystoreMissing(path) from error


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
