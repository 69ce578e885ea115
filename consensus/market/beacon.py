"""Randomness that nobody chooses: hash chains of secrets, and the beacon that mixes them.

A member commits, before a day starts, to the tip of a SHA-256 chain and reveals one link for each slot, backwards:
the secret of slot 0 hashes to the tip in one step, the secret of a later slot in more. A revealed secret therefore
proves itself against the commitment, and tells nothing of the secrets of later slots, which are its preimages.
"""

from hashlib import sha256

from eth_hash.auto import keccak

from consensus.market.errors import BeaconInvalid
from contracts.typed_data import Digest


def day_seed(secret_material: bytes, day: int) -> Digest:
    """The first link of ``day``'s chain: the secret of the day's last slot."""
    return Digest(sha256(b"yellowstone day" + day.to_bytes(8, "big") + secret_material).digest())


def chain_tip(seed: Digest, day_slots: int) -> Digest:
    """What a member commits to: ``day_slots`` hashes after the seed."""
    return _hashed(seed, day_slots)


def slot_secret(seed: Digest, slot_in_day: int, day_slots: int) -> Digest:
    """The secret of a slot, 0 ≤ ``slot_in_day`` < ``day_slots``. Raises :class:`BeaconInvalid` for any other slot."""
    _check_slot(slot_in_day, day_slots, seed=b"")
    return _hashed(seed, day_slots - 1 - slot_in_day)


def verify_reveal(tip: Digest, slot_in_day: int, secret: Digest, day_slots: int) -> None:
    """Raise :class:`BeaconInvalid` unless ``secret`` leads to ``tip`` in ``slot_in_day`` + 1 hashes."""
    _check_slot(slot_in_day, day_slots, seed=secret)
    if _hashed(secret, slot_in_day + 1) != tip:
        raise BeaconInvalid(slot_in_day, secret)


def next_beacon(previous: Digest, reveal: Digest, parent: Digest) -> Digest:
    """The beacon that a batch leaves behind: keccak(previous ‖ its proposer's reveal ‖ its parent's hash)."""
    return Digest(keccak(previous + reveal + parent))


def _check_slot(slot_in_day: int, day_slots: int, seed: bytes) -> None:
    if not 0 <= slot_in_day < day_slots:
        raise BeaconInvalid(slot_in_day, seed)


def _hashed(link: bytes, times: int) -> Digest:
    for _ in range(times):
        link = sha256(link).digest()
    return Digest(link)
