"""Whether what stands on a chain is what the sources say: every contract's code, to the byte, immutables included.

The constructor is run anew by the chain itself (``eth_call`` without a recipient returns the code that a deployment
would leave), with the arguments and the deployer of the address file; what comes out must be what is there. Blocking.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from contracts.artifacts import Artifact, load_artifact
from contracts.bindings import Compute, Registry
from contracts.client import ChainClient
from contracts.deployment_file import DeploymentFile
from contracts.typed_data import Address

NO_COMPILER = "vyper is not installed (pip install 'yellowstone-router[dev]'): the checked-in artifacts are believed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, whether it is as it should be, and in what words."""

    what: str
    is_good: bool
    detail: str


def recompiled(name: str) -> Artifact | None:
    """The artifact that the source compiles to here and now; None where the compiler isn't installed."""
    try:
        import vyper  # noqa: F401, PLC0415 - as above

        from contracts.build import compile_contract  # noqa: PLC0415 - needs the compiler
    except ImportError:
        return None
    return msgspec.json.decode(compile_contract(name), type=Artifact)


def verify(
    client: ChainClient, file: DeploymentFile, compiled: Callable[[str], Artifact | None] = recompiled
) -> list[Finding]:
    """Look at everything. Raises :class:`~contracts.errors.ChainUnavailable`."""
    chain_id = client.chain_id()
    if chain_id != file.chain_id:
        return [Finding("chain", False, f"this is chain {chain_id}, the address file is of {file.chain_id}")]
    findings = [Finding("chain", True, str(chain_id))]
    deployer = Address(bytes.fromhex(file.deployer[2:]))
    for name, deployed in file.contracts.items():
        artifact = load_artifact(name)
        fresh = compiled(name)
        if fresh is None:
            findings.append(Finding(f"{name}: source", True, f"NOT recompiled: {NO_COMPILER}"))
        else:
            same = (fresh.bytecode, fresh.runtime) == (artifact.bytecode, artifact.runtime)
            detail = f"recompiled with {fresh.compiler}" if same else f"{fresh.compiler} makes other code of it"
            findings.append(Finding(f"{name}: source", same, detail))
            artifact = fresh
        wanted = client.created_code(deployer, bytes.fromhex(artifact.bytecode) + deployed.raw_arguments)
        findings.append(_compared(name, deployed.address, wanted, client.code(deployed.raw_address)))
    return findings + _bindings(client, file)


def _compared(name: str, address: str, wanted: bytes, found: bytes) -> Finding:
    what = f"{name}: code"
    if not found:
        return Finding(what, False, f"there is no contract at {address}")
    if found == wanted:
        return Finding(what, True, f"{len(found)} bytes at {address}, arguments and immutables included")
    if len(found) != len(wanted):
        return Finding(what, False, f"{address} has {len(found)} bytes of code, the source makes {len(wanted)}")
    first = next(place for place, (one, other) in enumerate(zip(found, wanted, strict=True)) if one != other)
    immutables = len(load_artifact(name).runtime) // 2
    where = "an immutable: other arguments or another deployer" if first >= immutables else "the code itself"
    return Finding(what, False, f"{address} differs from byte {first} on, in {where}")


def _bindings(client: ChainClient, file: DeploymentFile) -> list[Finding]:
    """Each contract knows the others."""
    findings: list[Finding] = []
    if not {"registry", "compute"} <= file.contracts.keys():
        return [Finding("bindings", False, "registry and Compute Contract are not both deployed")]
    registry, compute = (file.address_of(name) for name in ("registry", "compute"))
    if not (client.code(registry) and client.code(compute)):
        return [Finding("bindings", False, "registry and Compute Contract are not both there")]
    known = Registry(client, registry).compute()
    findings.append(Finding("registry: bound", known == compute, f"to 0x{known.hex()}"))
    source = Compute(client, compute).source()
    ours = file.contracts.get("emission_source")
    is_right = ours is None or ours.raw_address == source
    findings.append(Finding("compute: emission source", is_right, f"0x{source.hex()}"))
    return findings
