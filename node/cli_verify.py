"""``yellowstone verify``: check one credit offline, with nothing but the committee's keys.

The file brings its own committee, which anybody could have made up: it counts only where its root is the one that the
reader names, by the network's genesis file or directly.
"""

from collections.abc import Callable
from pathlib import Path

from consensus.errors import ConsensusError
from consensus.market.errors import MarketError
from consensus.market.proof import verify_credit
from consensus.tendermint.certificate import signers_of
from contracts.typed_data import Address, Digest
from node.errors import ProofRejected
from node.network_file import load_network
from node.proof_file import ProofFile, read_proof


def verify_file(
    path: Path,
    *,
    network: Path | None,
    committee_root: str | None,
    provider: str | None = None,
    say: Callable[[str], None],
) -> None:
    """Check the proof at ``path`` and say line by line what was checked.

    Exactly one of ``network`` (a network.toml) and ``committee_root`` (0x hex) says whom to trust; ``provider``
    (0x hex) whom the credit must be of. Raises :class:`~node.errors.NodeError`: the file can't be read or proves
    nothing.
    """
    file = read_proof(path)
    committee = file.claimed_committee()
    trusted = _trusted_root(path, file, network, committee_root)
    wanted = None if provider is None else Address(_hex(path, "--provider", provider, 20))
    try:
        file.check_trusted(trusted)
        verify_credit(file.credit(), committee, file.domain(), wanted)
        signers = signers_of(file.certificate, file.domain())
    except (ConsensusError, MarketError) as error:
        raise ProofRejected(path, str(error)) from error
    stake = sum(committee.weight(signer) for signer in signers)
    say(f"network      chain {file.network.chain_id}, Compute Contract 0x{file.network.contract.hex()}")
    say(f"committee    0x{committee.root.hex()}, epoch {committee.epoch}, {len(committee.members)} members")
    if committee.root != trusted:
        say(f"trusted      0x{trusted.hex()}, which handed over to it")
    say(
        f"certificate  height {file.header.height}, round {file.certificate.round}:"
        f" {len(signers)} valid signatures, {100 * stake // committee.total} % of stake"
    )
    say(f"credit root  0x{file.header.credit_root.hex()}, reached over {len(file.proof)} siblings")
    say(f"proven       0x{file.provider.hex()} was credited {int(file.cumulative_wei)} wei up to this height")


def _trusted_root(path: Path, file: ProofFile, network: Path | None, committee_root: str | None) -> Digest:
    """The root of the committee that the reader vouches for; the file must be of the reader's network."""
    if (network is None) == (committee_root is None):
        raise ProofRejected(path, "name the committee that you trust: either --network or --committee-root")
    if network is not None:
        genesis = load_network(network)
        if genesis.terms().domain != file.domain():
            found = f"chain {file.network.chain_id}, contract 0x{file.network.contract.hex()}"
            raise ProofRejected(path, f"network: it is of {found}, {network} is of another")
        return genesis.committee().root
    return Digest(_hex(path, "--committee-root", committee_root or "", 32))


def _hex(path: Path, name: str, text: str, size: int) -> bytes:
    try:
        raw = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raw = b""
    if len(raw) != size:
        raise ProofRejected(path, f"{name} {text!r} is not {size} bytes of hex")
    return raw
