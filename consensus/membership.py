"""Who decides: the daily draw, the hand-over by the outgoing committee, and a rescue. Pure.

A draw takes over in three steps, each in the ledger and therefore the same for everybody: the day's opening names who
had staked at its snapshot block; more than 2/3 of the running committee's stake signs the hand-over; a batch carries
those signatures, and from the height above it the drawn committee decides. The same signatures open the epoch in the
registry, whoever brings them there and whenever (S12).
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec

from consensus.committee import Committee, Member
from consensus.errors import HandOverInvalid
from contracts.errors import SignatureInvalid
from contracts.signing import recover
from contracts.typed_data import Address, Digest, Domain, Signature, Uint256, digest
from gossip.messages.committee import MAX_MEMBERS, DrawnMember, HandOver, HandOverCertificate

LEAST_MEMBERS = 4
"""The smallest committee that tolerates a faulty member; a draw of fewer changes nothing."""


RESCUE_ROUNDS = 1 << 20
"""A rescued committee begins so many rounds further on for each epoch: nobody has signed anything there before."""


class Term(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A committee in the ledger: its epoch, 1 being the first, and its members in ascending order."""

    epoch: int
    members: tuple[DrawnMember, ...]

    @property
    def committee(self) -> Committee:
        """The committee with all that follows from it."""
        return _committee(self)

    @classmethod
    def of(cls, committee: Committee) -> "Term":
        """The term of a committee."""
        return cls(committee.epoch, tuple(DrawnMember(one.address, Uint256(one.stake)) for one in committee.members))


class Draw(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who was drawn, on which day, and takes over once the running committee has signed the hand-over."""

    day: int
    term: Term


@lru_cache(maxsize=64)
def _committee(term: Term) -> Committee:
    return Committee(term.epoch, tuple(Member(drawn.address, int(drawn.stake)) for drawn in term.members))


def draw(candidates: Sequence[tuple[Address, int]], running: Term) -> tuple[DrawnMember, ...]:
    """The next committee: the :data:`MAX_MEMBERS` largest of ``candidates`` (address, stake in wei).

    The lower address wins among equal stakes. Empty where the running committee stays: nothing has changed, or too few
    have staked to tolerate a fault.
    """
    largest = sorted((one for one in candidates if one[1] > 0), key=lambda one: (-one[1], one[0]))[:MAX_MEMBERS]
    drawn = tuple(DrawnMember(address, Uint256(stake)) for address, stake in sorted(largest))
    if drawn == running.members or len(drawn) < min(LEAST_MEMBERS, len(running.members)):
        return ()
    return drawn


def check_drawn(drawn: Sequence[DrawnMember], running: Term) -> None:
    """Raise :class:`HandOverInvalid` unless :func:`draw` could have drawn this to relieve ``running``."""
    addresses = [one.address for one in drawn]
    if addresses != sorted(set(addresses)):
        raise HandOverInvalid("unsorted members", len(addresses))
    if draw([(one.address, int(one.stake)) for one in drawn], running) != tuple(drawn):
        raise HandOverInvalid("no draw", len(addresses))


def hand_over_to(drawn: Draw, running: Term) -> HandOver:
    """What ``running`` signs to be relieved by who was drawn."""
    return HandOver(running.epoch, drawn.day, running.committee.root, drawn.term.committee.root)


def assemble_hand_over(
    hand_over: HandOver, running: Term, signatures: Mapping[Address, Signature]
) -> HandOverCertificate | None:
    """The certificate of signatures by member, each checked by the caller; None while they are 2/3 of stake or less."""
    committee = running.committee
    signers = sorted(address for address in signatures if committee.weight(address))
    if not committee.is_quorum(sum(map(committee.weight, signers))):
        return None
    return HandOverCertificate(hand_over, tuple(signatures[signer] for signer in signers))


def verify_hand_over(certificate: HandOverCertificate, expected: HandOver, running: Term, domain: Domain) -> None:
    """Raise :class:`HandOverInvalid` unless more than 2/3 of ``running``'s stake has signed ``expected``."""
    if certificate.hand_over != expected:
        raise HandOverInvalid("another hand-over", certificate.hand_over.next_root)
    signed, committee = digest(domain, expected), running.committee
    previous, weight = b"", 0
    for signature in certificate.signatures:
        signer = _recover(signed, signature)
        if committee.weight(signer) == 0:
            raise HandOverInvalid("unknown member", signer)
        if signer <= previous:
            raise HandOverInvalid("unsorted signers", signer)
        previous = signer
        weight += committee.weight(signer)
    if not committee.is_quorum(weight):
        raise HandOverInvalid("no quorum", weight)


def _recover(signed: Digest, signature: Signature) -> Address:
    try:
        return recover(signed, signature)
    except SignatureInvalid as error:
        raise HandOverInvalid("bad signature", signature) from error
