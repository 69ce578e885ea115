"""What this machine must have before anything is installed, checked in one go and told in one message.

Runs with the system's ``python3`` before there is a virtual environment, so it uses the standard library alone and
parses on older Pythons too. It installs nothing itself.

``python3 testnet/preflight.py`` exits 1 where something is missing, naming the command to type;
``--packages`` prints the missing packages in the system's own words instead, for scripts that may install them.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

OLDEST = (3, 11)
"""The oldest Python that runs a node."""

INSTALLERS = {"apt-get": "apt-get install -y", "dnf": "dnf install -y", "brew": "brew install"}
"""Package managers whose package names are known, and how each installs."""


class Need(NamedTuple):
    """One thing that must be there, why, and the package that brings it, by package manager."""

    what: str
    packages: dict[str, str]


PYTHON = Need(
    f"Python 3.11 or newer (this one is {platform.python_version()})",
    {
        "apt-get": "python3.11 python3.11-venv python3.11-dev",
        "dnf": "python3.12 python3.12-devel",
        "brew": "python@3.12",
    },
)
VENV = Need(
    "Python's venv module, for a virtual environment",
    {"apt-get": "python3-venv", "dnf": "python3", "brew": "python@3.12"},
)
COMPILER = Need("a C compiler, to build fastecdsa", {"apt-get": "gcc libc6-dev", "dnf": "gcc", "brew": "gcc"})
HEADERS = Need(
    "Python's C headers (Python.h), to build fastecdsa",
    {"apt-get": "python3-dev", "dnf": "python3-devel", "brew": "python@3.12"},
)
GMP = Need(
    "the GMP library's headers (gmp.h), to build fastecdsa",
    {"apt-get": "libgmp-dev", "dnf": "gmp-devel", "brew": "gmp"},
)
NODE = Need("Node.js, for the local chain's package", {"apt-get": "nodejs", "dnf": "nodejs", "brew": "node"})
NPM = Need("npm, for the local chain's package", {"apt-get": "npm", "dnf": "nodejs-npm", "brew": "node"})


def find_compiler() -> str | None:
    """The C compiler that a source build would use, or None."""
    for name in (os.environ.get("CC", "").split(" ")[0], "cc", "gcc", "clang"):
        path = shutil.which(name) if name else None
        if path:
            return path
    return None


def has_header(compiler: str | None, header: str, folders: list[Path]) -> bool:
    """Whether ``header`` is in one of ``folders`` or on the compiler's own search path."""
    if any((folder / header).is_file() for folder in folders):
        return True
    if compiler is None:
        return False
    source = f"#include <{header}>\n"
    # the compiler found on PATH, given no input of anybody else's
    probe = subprocess.run([compiler, "-E", "-"], input=source, capture_output=True, text=True, check=False)  # noqa: S603
    return probe.returncode == 0


def _gmp_folders(compiler: str | None) -> list[Path]:
    """Where gmp.h lies when there is no compiler to ask."""
    named = [Path(part) for part in os.environ.get("CPATH", "").split(os.pathsep) if part]
    if compiler is not None:
        return named
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    return [*named, Path("/usr/include"), Path("/usr/local/include"), Path("/usr/include", str(multiarch))]


def find_missing() -> list[Need]:
    """Everything that is missing, in the order in which it would be needed."""
    compiler = find_compiler()
    include = [Path(sysconfig.get_path(name)) for name in ("include", "platinclude")]
    checks = [
        (PYTHON, sys.version_info >= OLDEST),
        (VENV, all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))),
        (COMPILER, compiler is not None),
        (HEADERS, any((folder / "Python.h").is_file() for folder in include)),
        (GMP, has_header(compiler, "gmp.h", _gmp_folders(compiler))),
        (NODE, shutil.which("node") is not None),
        (NPM, shutil.which("npm") is not None),
    ]
    return [need for need, is_there in checks if not is_there]


def find_installer() -> str | None:
    """The package manager of this machine, of those whose package names are known."""
    return next((name for name in INSTALLERS if shutil.which(name)), None)


def compute_packages(missing: list[Need], installer: str) -> list[str]:
    """The packages that bring what is missing, each once."""
    words = [word for need in missing for word in need.packages[installer].split()]
    return list(dict.fromkeys(words))


def _homebrew_hint(missing: list[Need]) -> list[str]:
    """Homebrew's headers lie where Apple's compiler doesn't look: say which variables show it the way."""
    prefix = next((p for p in ("/opt/homebrew", "/usr/local") if Path(p, "include", "gmp.h").is_file()), None)
    if GMP not in missing or prefix is None or platform.system() != "Darwin":
        return []
    return [
        f"gmp.h is at {prefix}/include, where the compiler does not look. Type this first:",
        "",
        f"    export CPATH={prefix}/include LIBRARY_PATH={prefix}/lib",
        "",
    ]


def describe(missing: list[Need], installer: str | None, *, is_root: bool) -> str:
    """The one message: what is missing and exactly what to type."""
    lines = ["Yellowstone needs what this machine does not have yet:", ""]
    lines += ["  - " + need.what for need in missing]
    lines.append("")
    lines += _homebrew_hint(missing)
    if installer is None:
        lines.append("Install these with the system's package manager (on Debian the packages are called")
        lines.append("{}).".format(", ".join(compute_packages(missing, "apt-get"))))
    else:
        sudo = "" if is_root or installer == "brew" else "sudo "
        lines += ["Install it by typing", ""]
        lines.append("    {}{} {}".format(sudo, INSTALLERS[installer], " ".join(compute_packages(missing, installer))))
    if PYTHON in missing:
        lines += ["", "A newer Python that is there already is used by adding PYTHON=python3.12 (or its path) to make."]
    lines += ["", "Then run the same command again. Nothing has been installed so far."]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """0 where everything is there, else 1; with ``--packages`` always 0 and the packages on stdout."""
    missing = find_missing()
    installer = find_installer()
    if "--packages" in arguments:
        sys.stdout.write(" ".join(compute_packages(missing, installer)) + "\n" if missing and installer else "")
        return 0
    if platform.system() not in ("Linux", "Darwin"):
        sys.stderr.write(f"Yellowstone runs on Linux and macOS, not on {platform.system()}: use WSL 2 there.\n")
        return 1
    if not missing:
        return 0
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    sys.stderr.write(describe(missing, installer, is_root=is_root) + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
