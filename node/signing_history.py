"""What a member has signed, and the file in which that moves to another machine.

A history file is JSON lines: a heading with the key's address, the network and the watermark; one line for each
signature, in order; a last line with a checksum over all before. Nothing in it is secret. Pure;
:mod:`node.signing_file` keeps the same in a database.
"""

import hashlib
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import msgspec

from consensus.tendermint.types import Step
from contracts.errors import SignatureInvalid
from contracts.signing import recover
from contracts.typed_data import Address, Digest, Domain, Signature
from gossip.messages.base import U64
from gossip.messages.committee import Precommit, Prevote, Proposal
from node.errors import HistoryInvalid

L = TypeVar("L", bound=msgspec.Struct)

LAST_ROUND = 2**63 - 1
"""No round is later."""

STEPS = {step.name.lower(): step for step in (Step.PROPOSE, Step.PREVOTE, Step.PRECOMMIT)}


class Place(NamedTuple):
    """What at most one message is signed for; places are ordered as a member passes through them."""

    height: int
    round: int
    step: Step
    """PROPOSE, PREVOTE or PRECOMMIT."""

    @classmethod
    def of(cls, payload: Proposal | Prevote | Precommit) -> "Place":
        """The place that ``payload`` is for."""
        match payload:
            case Proposal():
                step = Step.PROPOSE
            case Prevote():
                step = Step.PREVOTE
            case Precommit():
                step = Step.PRECOMMIT
        return cls(payload.height, payload.round, step)

    @classmethod
    def end_of(cls, height: int) -> "Place":
        """No place of ``height`` is later."""
        return cls(height, LAST_ROUND, Step.PRECOMMIT)

    def __str__(self) -> str:
        return f"height {self.height}, round {self.round}, {self.step.name.lower()}"


NOWHERE = Place(0, 0, Step.NONE)
"""The watermark of a key that has signed nothing."""


class SignedRecord(msgspec.Struct, frozen=True):
    """One signature: for which place, over which digest, when (Unix ms), and why in a few words."""

    place: Place
    digest: Digest
    signature: Signature
    signed_ms: int
    why: str


class History(msgspec.Struct, frozen=True):
    """All that is remembered of one key on one network. ``records`` ascend and lie at or below ``watermark``."""

    address: Address
    domain: Domain
    watermark: Place
    records: tuple[SignedRecord, ...]


class _Heading(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["yellowstone signing history"]
    version: Literal[1]
    address: str
    chain_id: int
    contract: str
    height: U64
    round: U64
    step: Literal["none", "propose", "prevote", "precommit"]


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    height: U64
    round: U64
    step: Literal["propose", "prevote", "precommit"]
    digest: str
    signature: str
    signed_ms: U64
    why: str


class _Seal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    blake2b: str


def encode_history(history: History) -> bytes:
    """The file of ``history``."""
    mark = history.watermark
    heading = _Heading(
        format="yellowstone signing history",
        version=1,
        address=history.address.hex(),
        chain_id=history.domain.chain_id,
        contract=history.domain.contract.hex(),
        height=mark.height,
        round=mark.round,
        step=mark.step.name.lower(),  # type: ignore[arg-type]  # a watermark's step is one of the four
    )
    lines: list[msgspec.Struct] = [heading, *map(_to_line, history.records)]
    body = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    return body + msgspec.json.encode(_Seal(_checksum(body))) + b"\n"


def decode_history(path: Path, data: bytes) -> History:
    """The history in ``data``; ``path`` is only named in errors.

    Raises :class:`~node.errors.HistoryInvalid` for a file that is damaged or cut, out of order, or holds a signature
    that its key has not made.
    """
    *lines, last = data.removesuffix(b"\n").split(b"\n")
    body = b"".join(line + b"\n" for line in lines)
    if _decode(path, len(lines) + 1, last, _Seal).blake2b != _checksum(body):
        raise HistoryInvalid(path, 0, "the checksum does not hold: the file is damaged or was edited")
    if not lines:
        raise HistoryInvalid(path, 1, "there is no heading")
    heading = _decode(path, 1, lines[0], _Heading)
    address = Address(_bytes(path, 1, heading.address, 20))
    domain = Domain(heading.chain_id, Address(_bytes(path, 1, heading.contract, 20)))
    watermark = Place(heading.height, heading.round, Step[heading.step.upper()])
    records: list[SignedRecord] = []
    for number, line in enumerate(lines[1:], start=2):
        record = _to_record(path, number, _decode(path, number, line, _Line))
        if records and record.place <= records[-1].place:
            raise HistoryInvalid(path, number, f"{record.place} is out of order")
        if record.place > watermark:
            raise HistoryInvalid(path, number, f"{record.place} is above the watermark ({watermark})")
        if not _is_signed_by(record, address):
            raise HistoryInvalid(path, number, f"0x{address.hex()} has not made this signature")
        records.append(record)
    return History(address, domain, watermark, tuple(records))


def _is_signed_by(record: SignedRecord, address: Address) -> bool:
    try:
        return recover(record.digest, record.signature) == address
    except SignatureInvalid:
        return False


def _to_line(record: SignedRecord) -> _Line:
    return _Line(
        height=record.place.height,
        round=record.place.round,
        step=record.place.step.name.lower(),  # type: ignore[arg-type]  # a signed place's step is one of the three
        digest=record.digest.hex(),
        signature=record.signature.hex(),
        signed_ms=record.signed_ms,
        why=record.why,
    )


def _to_record(path: Path, number: int, line: _Line) -> SignedRecord:
    return SignedRecord(
        Place(line.height, line.round, STEPS[line.step]),
        Digest(_bytes(path, number, line.digest, 32)),
        Signature(_bytes(path, number, line.signature, 65)),
        line.signed_ms,
        line.why,
    )


def _decode(path: Path, number: int, line: bytes, kind: type[L]) -> L:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.MsgspecError, ValueError) as error:
        raise HistoryInvalid(path, number, str(error)) from error


def _bytes(path: Path, number: int, text: str, length: int) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError as error:
        raise HistoryInvalid(path, number, f"{text!r} is not hexadecimal") from error
    if len(value) != length:
        raise HistoryInvalid(path, number, f"0x{text} is not {length} bytes long")
    return value


def _checksum(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=32).hexdigest()
