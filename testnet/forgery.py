"""A lying committee: every member signs a batch that no ledger leads to, and the contract is asked to take it.

The keys are a test network's own, which its launcher knows; nothing of this is gossiped.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from consensus.committee import Committee
from consensus.tendermint.certificate import assemble_certificate
from contracts.bindings import Compute, certificate
from contracts.errors import TransactionReverted
from contracts.merkle import CreditTree
from contracts.signing import Key
from contracts.typed_data import Address, Domain, Uint256, digest
from gossip.messages.committee import BatchHeader, CommitCertificate, Precommit, batch_hash
from testnet.errors import TestnetError


class ForgeryTaken(TestnetError):
    """The contract did with a forged batch what it must not do."""


def credit_liar(last: BatchHeader, wei: int, liar: Address) -> BatchHeader:
    """The header after ``last`` that credits ``wei`` more than it, all of it to ``liar``."""
    return replace(
        last,
        height=last.height + 1,
        parent=batch_hash(last),
        credit_root=CreditTree.of({liar: wei}).root,
        total_credited=Uint256(last.total_credited + wei),
    )


def certify(header: BatchHeader, committee: Committee, keys: Sequence[Key], domain: Domain) -> CommitCertificate:
    """What ``keys``, members of ``committee``, sign under ``header`` in round 0."""
    value = batch_hash(header)
    vote = digest(domain, Precommit(header.height, 0, value, committee.root))
    return assemble_certificate(
        header.height, 0, value, committee, {key.address: key.sign_digest(vote) for key in keys}
    )


def refusal(compute: Compute, purse: Key, header: BatchHeader, signed: CommitCertificate) -> str:
    """The contract's reason for refusing a forged batch. Raises :class:`ForgeryTaken` where it has none."""
    try:
        receipt = compute.submit(purse, header, signed.round, signed.signatures)
    except TransactionReverted as error:
        return error.reason
    raise ForgeryTaken(f"a forged batch of {header.total_credited} wei was taken: 0x{receipt.tx_hash.hex()}")


def would_pay(compute: Compute, header: BatchHeader, signed: CommitCertificate, liar: Address, wei: int) -> int:
    """Wei that the contract would pay ``liar`` on this batch, by a call that changes nothing.

    Raises :class:`~contracts.errors.TransactionReverted` where it would refuse.
    """
    tree = CreditTree.of({liar: wei})
    told = certificate(header, signed.round, signed.signatures)
    arguments = (*told, liar, wei, tree.proof(liar))
    return int(compute.client.call("compute", compute.address, "claim_with_certificate", *arguments))
