"""The JSON that proves a credit to outsiders: the proof, the network it is of, and the committee behind it.

The committee in the file is a claim, not an authority: :mod:`node.cli_verify` compares its root with one that the
reader trusts. Bytes are 0x hex, amounts are integers of wei.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import msgspec

from consensus.committee import Committee, Member
from consensus.errors import HandOverInvalid
from consensus.market.proof import MAX_SIBLINGS, CreditProof
from consensus.membership import Term, verify_hand_over
from contracts.typed_data import Address, Digest, Domain, Signature, Uint256
from gossip.messages.base import U64
from gossip.messages.committee import BatchHeader, CommitCertificate, HandOver, HandOverCertificate
from node.errors import ProofUnreadable

S = TypeVar("S", bound=msgspec.Struct)

MAX_BYTES = 2 << 20
"""The largest file that is read."""

MAX_HAND_OVERS = 32
"""A file shows so many, the newest: whoever trusts an older committee asks the registry for a newer one."""

MAX_DEPTH = 16
"""Objects and lists within one another; a parser's stack is not to be trusted with thousands."""


class NetworkName(msgspec.Struct, frozen=True):
    """What every signature of a network is bound to."""

    chain_id: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    contract: Address


class MemberEntry(msgspec.Struct, frozen=True):
    """One committee member."""

    address: Address
    stake_wei: Uint256


class CommitteeEntry(msgspec.Struct, frozen=True):
    """The committee that the file says signed."""

    epoch: U64
    members: Annotated[tuple[MemberEntry, ...], msgspec.Meta(min_length=1, max_length=64)]

    @classmethod
    def of(cls, committee: Committee) -> "CommitteeEntry":
        """The entry of a committee."""
        members = tuple(MemberEntry(member.address, Uint256(member.stake)) for member in committee.members)
        return cls(committee.epoch, members)

    def committee(self) -> Committee:
        """The committee, in the file's order: another order has another root."""
        return Committee(self.epoch, tuple(Member(entry.address, int(entry.stake_wei)) for entry in self.members))


class HandOverEntry(msgspec.Struct, frozen=True):
    """How one committee relieved another: the outgoing one, the day, and its signatures."""

    committee: CommitteeEntry
    day: U64
    signatures: Annotated[tuple[Signature, ...], msgspec.Meta(min_length=1, max_length=64)]


class ProofFile(msgspec.Struct, frozen=True):
    """The file's own shape, as ``/proof/<height>/<provider>`` answers it."""

    network: NetworkName
    committee: CommitteeEntry
    provider: Address
    cumulative_wei: Uint256
    proof: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=MAX_SIBLINGS)]
    header: BatchHeader
    certificate: CommitCertificate
    hand_overs: Annotated[tuple[HandOverEntry, ...], msgspec.Meta(max_length=MAX_HAND_OVERS)]
    """How the committee came to be, the oldest first: whoever trusts an earlier committee needs no other source."""

    @classmethod
    def of(
        cls, proof: CreditProof, committee: Committee, domain: Domain, hand_overs: tuple[HandOverEntry, ...] = ()
    ) -> "ProofFile":
        """A self-contained file of ``proof``."""
        return cls(
            network=NetworkName(domain.chain_id, domain.contract),
            committee=CommitteeEntry.of(committee),
            provider=proof.provider,
            cumulative_wei=proof.cumulative,
            proof=proof.proof,
            header=proof.header,
            certificate=proof.certificate,
            hand_overs=hand_overs[-MAX_HAND_OVERS:],
        )

    def credit(self) -> CreditProof:
        """The proof."""
        return CreditProof(self.provider, self.cumulative_wei, self.proof, self.header, self.certificate)

    def domain(self) -> Domain:
        """The network that the file is of."""
        return Domain(self.network.chain_id, self.network.contract)

    def claimed_committee(self) -> Committee:
        """Who signed, as the file has it."""
        return self.committee.committee()

    def check_trusted(self, trusted: Digest) -> None:
        """Raise :class:`~consensus.errors.HandOverInvalid` unless the committee with root ``trusted`` signed, or
        handed over, step by step, to the one that did."""
        line = [*(entry.committee.committee() for entry in self.hand_overs), self.claimed_committee()]
        roots = [committee.root for committee in line]
        if trusted not in roots:
            raise HandOverInvalid("no committee in the file is the one that is trusted", roots[-1])
        for place in range(roots.index(trusted), len(self.hand_overs)):
            entry, running, coming = self.hand_overs[place], line[place], line[place + 1]
            if coming.epoch != running.epoch + 1:
                raise HandOverInvalid("an epoch is left out", coming.epoch)
            expected = HandOver(running.epoch, entry.day, running.root, coming.root)
            certificate = HandOverCertificate(expected, entry.signatures)
            verify_hand_over(certificate, expected, Term.of(running), self.domain())


def read_proof(path: Path) -> ProofFile:
    """The proof in a JSON file. Raises :class:`ProofUnreadable`, naming the key and the offending value."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ProofUnreadable(path, "", f"is larger than {MAX_BYTES} bytes: no proof is")
        text = path.read_text("utf-8")
        if _depth(text) > MAX_DEPTH:
            raise ProofUnreadable(path, "", f"has more than {MAX_DEPTH} brackets within one another: no proof has")
        document = json.loads(text, object_pairs_hook=_unique)
    except FileNotFoundError as error:
        raise ProofUnreadable(path, "", "there is no such file") from error
    except OSError as error:
        raise ProofUnreadable(path, "", f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ProofUnreadable(path, "", f"is not JSON: {error}") from error
    try:
        return _struct(ProofFile, document, "")
    except _Misfit as error:
        raise ProofUnreadable(path, error.key, error.reason) from error


_LISTS: dict[str, type[msgspec.Struct]] = {"members": MemberEntry, "hand_overs": HandOverEntry}
"""Lists of objects, by key."""


class _Misfit(Exception):
    """``key`` is not what it should be."""

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"{key}: {reason}")


def _depth(text: str) -> int:
    """How deep brackets nest, those in strings included: a proof's strings have none."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two equal keys one would be read and the other shown."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice in one object")
    return found


def _struct(kind: type[S], document: Any, key: str) -> S:
    """``document`` as a struct of exactly its fields, by name, whatever its wire form is."""
    if not isinstance(document, dict):
        raise _Misfit(key, f"{_short(document)} is not an object")
    hints = get_type_hints(kind, include_extras=True)
    names = kind.__struct_fields__
    for name in document:
        if name not in names:
            raise _Misfit(_join(key, name), "unknown key")
    for name in names:
        if name not in document:
            raise _Misfit(_join(key, name), "is missing")
    return kind(**{name: _value(hints[name], document[name], _join(key, name)) for name in names})


def _value(hint: Any, value: Any, key: str) -> Any:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _struct(hint, value, key)
    entries = _LISTS.get(key.rpartition(".")[2])
    if entries is not None and isinstance(value, list):
        value = tuple(_struct(entries, item, f"{key}[{index}]") for index, item in enumerate(value))
    try:
        return msgspec.convert(_from_hex(value), hint, builtin_types=(bytes,), dec_hook=_amount)
    except (msgspec.ValidationError, ValueError) as error:
        raise _Misfit(key, f"{_short(value)}: {error}") from error


def _from_hex(value: Any) -> Any:
    match value:
        case list():
            return [_from_hex(item) for item in value]
        case str() if value.startswith("0x"):
            return bytes.fromhex(value[2:])
        case _:
            return value


def _amount(kind: type, value: Any) -> Uint256:
    if kind is not Uint256:
        raise NotImplementedError(kind)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**256:
        raise ValueError("is not an amount: an integer from 0 to 2^256 − 1")
    return Uint256(value)


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
