"""What a subscriber says about a gossiped message before it is passed on. Pure."""

import enum

import msgspec


class Verdict(enum.Enum):
    """A validator's answer."""

    ACCEPT = "accept"
    """Deliver it here and pass it on."""
    IGNORE = "ignore"
    """Drop it: old, unwanted or not understood, but nobody's fault."""
    REJECT = "reject"
    """Drop it and score the peer that passed it on: no honest node would have."""


class GossipMessage(msgspec.Struct, frozen=True):
    """An accepted message as it is delivered."""

    data: bytes
    origin: str
    """Peer id of its author, proven by the author's signature."""
    forwarder: str
    """Peer id of who passed it on to us."""
