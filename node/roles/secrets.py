"""A member's share of the beacon: a hash chain of secrets per day, one for each slot."""

import hashlib
from functools import lru_cache

from consensus.market.beacon import chain_tip, day_seed, slot_secret
from consensus.params import NetworkParams
from contracts.signing import Key
from contracts.typed_data import Digest, Domain
from gossip.messages import Signed, sign
from gossip.messages.records import BeaconCommitment


class SlotSecrets:
    """Derived from the MOR key, so that a restarted member still holds the secrets that it committed to."""

    def __init__(self, key: Key, params: NetworkParams, domain: Domain) -> None:
        self._key = key
        self._params = params
        self._domain = domain
        self._material = hashlib.sha256(b"yellowstone beacon" + key.reveal()).digest()
        self._secret = lru_cache(maxsize=64)(self._compute)

    def of_slot(self, slot: int) -> Digest:
        """The secret of ``slot``; to be told to nobody before the slot has ended."""
        return self._secret(slot)

    def _compute(self, slot: int) -> Digest:
        day_slots = self._params.day_slots
        return slot_secret(day_seed(self._material, slot // day_slots), slot % day_slots, day_slots)

    def commitment(self, day: int) -> Signed[BeaconCommitment]:
        """The signed commitment to the secrets of ``day``."""
        tip = chain_tip(day_seed(self._material, day), self._params.day_slots)
        return sign(BeaconCommitment(self._key.address, day, tip), self._key, self._domain)
