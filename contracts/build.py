"""Compile the Vyper sources into contracts/artifacts, byte-identical from any path.

``python -m contracts.build`` writes, ``--check`` only compares and exits with 1 where a checked-in artifact is stale.
The compiler is a development dependency: nothing else imports it.
"""

import argparse
import hashlib
import re
import sys
from pathlib import Path

import msgspec

from contracts.artifacts import ARTIFACTS_DIR, CONTRACT_NAMES, Artifact

SOURCES_DIR = Path(__file__).parent


def compile_contract(name: str, sources_dir: Path = SOURCES_DIR) -> bytes:
    """The artifact's JSON for ``sources_dir``/``name``.vy. Raises the compiler's own error where it doesn't compile."""
    from vyper import __version__  # noqa: PLC0415 - the compiler takes a second to import and only this needs it
    from vyper.compiler import compile_code  # noqa: PLC0415 - as above
    from vyper.compiler.input_bundle import FilesystemInputBundle  # noqa: PLC0415 - as above

    source = (sources_dir / f"{name}.vy").read_text(encoding="utf-8")
    outputs = compile_code(
        source,
        input_bundle=FilesystemInputBundle([sources_dir]),
        output_formats=["abi", "bytecode", "bytecode_runtime"],
    )
    artifact = Artifact(
        name=name,
        compiler=f"vyper {__version__}",
        source_sha256=_fingerprint(source, sources_dir),
        abi=tuple(outputs["abi"]),
        bytecode=outputs["bytecode"].removeprefix("0x"),
        runtime=outputs["bytecode_runtime"].removeprefix("0x"),
    )
    return msgspec.json.format(msgspec.json.encode(artifact, order="sorted"), indent=1) + b"\n"


def stale_artifacts(artifacts_dir: Path = ARTIFACTS_DIR, sources_dir: Path = SOURCES_DIR) -> list[str]:
    """Names of the contracts whose checked-in artifact isn't what their source compiles to."""
    return [name for name in CONTRACT_NAMES if _read(artifacts_dir, name) != compile_contract(name, sources_dir)]


def write_artifacts(artifacts_dir: Path = ARTIFACTS_DIR) -> None:
    """Compile everything and write it."""
    artifacts_dir.mkdir(exist_ok=True)
    for name in CONTRACT_NAMES:
        (artifacts_dir / f"{name}.json").write_bytes(compile_contract(name))


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m contracts.build", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only, exit with 1 on a difference")
    if not parser.parse_args(arguments).check:
        write_artifacts()
        return 0
    stale = stale_artifacts()
    for name in stale:
        print(f"contracts/artifacts/{name}.json is stale: run python -m contracts.build", file=sys.stderr)
    return 1 if stale else 0


def _fingerprint(source: str, sources_dir: Path) -> str:
    """sha256 over the source and the modules that it imports, in their order."""
    modules = re.findall(r"^import (\w+)$", source, re.MULTILINE)
    texts = [source, *((sources_dir / f"{module}.vy").read_text(encoding="utf-8") for module in modules)]
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def _read(artifacts_dir: Path, name: str) -> bytes:
    path = artifacts_dir / f"{name}.json"
    return path.read_bytes() if path.exists() else b""


if __name__ == "__main__":
    sys.exit(main())
