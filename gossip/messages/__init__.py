"""Signed, frozen, typed messages: the protocol's vocabulary and its only codec. Pure: no I/O, no clock."""

from gossip.messages.base import Payload, Signed, Unit, check_expiry, decode, encode, sign

__all__ = ["Payload", "Signed", "Unit", "check_expiry", "decode", "encode", "sign"]
