"""How a vector of certificates.json is made: a good certificate, and one thing done to it.

Its keys are public and fixed; what is signed depends on the network, so that a deployed contract can be asked too.
"""

import json
from pathlib import Path
from typing import Any

from msgspec import structs

from consensus.committee import Committee, Member
from contracts.signing import Key
from contracts.typed_data import ZERO_ADDRESS, ZERO_DIGEST, Address, Digest, Domain, Signature, Uint256
from gossip.messages.committee import BatchHeader, CommitCertificate, Precommit, Prevote, Proposal, batch_hash

Json = dict[str, Any]
VECTORS: list[Json] = json.loads((Path(__file__).parent / "certificates.json").read_text(encoding="utf-8"))

DOMAIN = Domain(4242, Address(b"\xcc" * 20))
KEYS = sorted((Key(bytes([number]) * 32) for number in range(1, 5)), key=lambda key: key.address)
STRANGERS = [Key(bytes([0x77, number]) * 16) for number in range(61)]
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
OTHER = Digest(b"\x0f" * 32)
WORDS: dict[str, object] = {"nil": ZERO_DIGEST, "other": OTHER, "nobody": ZERO_ADDRESS}


def committee_of(stakes: list[int], epoch: int = 1) -> Committee:
    return Committee.of(epoch, [Member(key.address, stake) for key, stake in zip(KEYS, stakes, strict=False)])


def header_of(root: Digest) -> BatchHeader:
    """A batch of height 7; every field holds something else."""
    digests = [Digest(bytes([number]) * 32) for number in range(1, 7)]
    return BatchHeader(
        height=7,
        slot=12,
        day=1,
        parent=digests[0],
        body_root=digests[1],
        credit_root=digests[2],
        total_credited=Uint256(10**21),
        bootstrap_credited=Uint256(10**18),
        state_root=digests[3],
        committee_root=root,
        beacon=digests[4],
        reveal=digests[5],
        proposer=KEYS[0].address,
    )


def words(fields: Json) -> Json:
    """The fields of a mutation, with the words for hashes replaced."""
    return {name: WORDS.get(value, value) if isinstance(value, str) else value for name, value in fields.items()}


def signed(key: Key, precommit: Precommit, change: Json, own: Domain) -> Signature:
    """``key``'s signature over ``precommit`` after a change, under another domain where that is changed."""
    contract = Address(b"\xdd" * 20) if "contract" in change else own.contract
    domain = Domain(change.get("chain_id", own.chain_id), contract)
    fields = {name: value for name, value in words(change).items() if name in Precommit.__struct_fields__}
    payload = structs.replace(precommit, **fields)
    match change.get("type", "precommit"):
        case "precommit":
            return key.sign(payload, domain)
        case "prevote":
            return key.sign(Prevote(payload.height, payload.round, 0, payload.batch_hash), domain)
        case "proposal":
            return key.sign(Proposal(payload.height, payload.round, 0, payload.batch_hash, key.address), domain)
        case unknown:
            raise ValueError(f"no member signs a {unknown!r}")


def changed_fields(fields: Json) -> Json:
    """Changes to a header, of the types that its fields have."""
    kinds: dict[str, Any] = {"total_credited": Uint256, "bootstrap_credited": Uint256}
    return {name: kinds.get(name, lambda value: value)(value) for name, value in words(fields).items()}


def spoiled(signature: Signature, how: str) -> Signature:
    r, s, v = signature[:32], signature[32:64], signature[64]
    match how:
        case "short":
            return Signature(signature[:64])
        case "high_s":
            return Signature(r + (ORDER - int.from_bytes(s, "big")).to_bytes(32, "big") + bytes([55 - v]))
        case "zero":
            return Signature(bytes(64) + b"\x1b")
        case "v_0":
            return Signature(r + s + bytes([v - 27]))
        case "v_29":
            return Signature(r + s + b"\x1d")
        case "v_flipped":
            return Signature(r + s + bytes([55 - v]))
        case "r_order":
            return Signature(ORDER.to_bytes(32, "big") + s + bytes([v]))
        case "r_zero":
            return Signature(bytes(32) + s + bytes([v]))
        case "s_zero":
            return Signature(r + bytes(32) + bytes([v]))
        case "s_half_order":
            return Signature(r + (ORDER // 2 + 1).to_bytes(32, "big") + bytes([v]))
        case "v_high_s_flag":
            return Signature(r + (int.from_bytes(s, "big") | 1 << 255).to_bytes(32, "big") + bytes([v]))
        case unknown:
            raise ValueError(f"no way to spoil a signature is called {unknown!r}")


def build(mutation: Json, domain: Domain = DOMAIN) -> tuple[CommitCertificate, BatchHeader, Committee]:
    """A good certificate of ``domain`` with ``mutation`` done to it, and what it is checked against."""
    stakes: list[int] = mutation.get("stakes", [1, 1, 1, 1])
    committee = committee_of(stakes)
    root = OTHER if "header_root" in mutation else committee.root
    header = header_of(root)
    precommit = Precommit(7, mutation.get("round", 0), batch_hash(header), committee.root)
    keys = [KEYS[number] for number in mutation.get("signers", range(len(stakes)))]
    if strangers := mutation.get("strangers", 0):
        keys = sorted([*keys, *STRANGERS[:strangers]], key=lambda key: key.address)
    changes = [mutation.get("signed", {}) for _ in keys]
    for place in mutation.get("mixed_places", [-1] if "mixed" in mutation else []):
        changes[place] = mutation["mixed"]
    signatures = [signed(key, precommit, change, domain) for key, change in zip(keys, changes, strict=True)]
    if "signature" in mutation:
        signatures[1] = spoiled(signatures[1], mutation["signature"])
    certificate = CommitCertificate(
        precommit.height, precommit.round, precommit.batch_hash, precommit.committee_root, tuple(signatures)
    )
    certificate = structs.replace(certificate, **words(mutation.get("certificate", {})))
    header = structs.replace(header, **changed_fields(mutation.get("header", {})))
    now = committee_of(mutation.get("stakes_now") or stakes, mutation.get("epoch", 1))
    return certificate, header, now
