"""Errors of the gossip side.

::

    GossipError
    ├── MessageError            a peer's message is at fault: drop it, score the peer
    │   ├── MessageTooLarge     refused before parsing
    │   ├── MalformedMessage    does not decode to the expected type
    │   ├── MessageExpired      its time has passed
    │   ├── MessageTooEarly     this node's clock or ledger isn't so far yet; no peer is at fault
    │   └── SignerMismatch      signed by somebody else than it names
    └── TransportError          the connection is at fault: retry or give up
        ├── AddressInUse        another process listens where this node was told to
        ├── PeerUnreachable     no connection could be made in time
        ├── StreamBroken        ended without END, or by a reset
        ├── StreamTimeout       a deadline passed while reading or writing
        └── RemoteError         the peer answered with an explicit ERROR frame
"""

from contracts.errors import ContractsError


class GossipError(Exception):
    """Root of this folder's errors."""


class MessageError(GossipError):
    """A peer's message is at fault."""


class MessageTooLarge(MessageError):
    """``size`` bytes arrived where at most ``limit`` are read."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(f"{what} has {size} bytes, at most {limit} are read")


class MalformedMessage(MessageError):
    """Bytes do not decode to ``what``."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        super().__init__(f"not a {what}: {reason}")


class MessageExpired(MessageError):
    """``what`` expired at ``expires_ms`` (Unix ms)."""

    def __init__(self, what: str, expires_ms: int, now_ms: int) -> None:
        self.expires_ms = expires_ms
        super().__init__(f"{what} expired {now_ms - expires_ms} ms ago")


class MessageTooEarly(MessageError):
    """``what`` may hold for a node whose clock is ahead of this one's, or that has followed further."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        super().__init__(f"{what}: {reason}")


class SignerMismatch(MessageError):
    """``what`` is not signed by the address that it names."""

    def __init__(self, what: str, cause: ContractsError) -> None:
        self.what = what
        super().__init__(f"{what}: {cause}")


class TransportError(GossipError):
    """A connection or stream is at fault, not what was said on it."""


class AddressInUse(TransportError):
    """``address`` (a multiaddr) cannot be listened on."""

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        super().__init__(f"cannot listen on {address}: {reason}")


class PeerUnreachable(TransportError):
    """No connection to ``peer`` could be made in time."""

    def __init__(self, peer: str, reason: str) -> None:
        self.peer = peer
        super().__init__(f"peer {peer} is unreachable: {reason}")


class StreamBroken(TransportError):
    """A stream ended without an END frame, or was reset."""


class NoPlace(TransportError):
    """This node serves as many streams of a protocol as it may."""


class StreamTimeout(TransportError):
    """A deadline passed while a stream was read or written."""


class RemoteError(TransportError):
    """The peer answered with an ERROR frame: ``code`` is a stable word, ``detail`` is for people."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{code}: {detail}")
