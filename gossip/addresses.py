"""Which multiaddrs this network speaks: TCP by IP address or DNS name. As text, so that a file is checked quickly."""

import ipaddress
import re

IP, DNS = ("ip4", "ip6"), ("dns", "dns4", "dns6")
_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*\.?")
_PEER_ID = re.compile(r"[1-9A-HJ-NP-Za-km-z]{8,90}")


def find_fault(address: str, *, is_listened_on: bool = False, names_peer: bool | None = None) -> str | None:
    """Why ``address`` can't be used, for people; None where it can.

    ``is_listened_on``: only IP addresses can be. ``names_peer``: whether it has to end in ``/p2p/<peer id>``, or must
    not; None: either.
    """
    parts = address.split("/")
    if len(parts) < 5 or parts[0]:
        return f"{address!r} is not a multiaddr, such as /ip4/127.0.0.1/tcp/28555"
    _, kind, host, transport, port, *rest = parts
    if kind not in (IP if is_listened_on else IP + DNS):
        wanted = "an IP address" if is_listened_on else "an IP address or a DNS name"
        return f"{address!r} begins with /{kind}, which is not supported: {wanted} comes first"
    if (fault := _host_fault(kind, host)) is not None:
        return f"{address!r}: {fault}"
    if transport != "tcp":
        return f"{address!r} is over {transport}, which is not supported: only tcp is"
    if not port.isascii() or not port.isdigit() or int(port) > 65_535 or (not is_listened_on and int(port) == 0):
        return f"{address!r}: {port!r} is no port"
    return _peer_fault(address, rest, names_peer)


def _host_fault(kind: str, host: str) -> str | None:
    if kind in DNS:
        return None if len(host) <= 253 and _NAME.fullmatch(host) else f"{host!r} is no DNS name"
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        version = None
    return None if version == int(kind[-1]) else f"{host!r} is no IPv{kind[-1]} address"


def _peer_fault(address: str, rest: list[str], names_peer: bool | None) -> str | None:
    if rest and (rest[0] != "p2p" or len(rest) != 2):
        return f"{address!r} goes on with /{rest[0]}, which is not supported"
    if names_peer and not rest:
        return f"{address!r} has no /p2p/<peer id> at its end"
    if rest and names_peer is False:
        return f"{address!r} must not name a peer"
    if rest and not _PEER_ID.fullmatch(rest[1]):
        return f"{address!r}: {rest[1]!r} is no peer id"
    return None


def is_unspecified(address: str) -> bool:
    """Whether ``address`` stands for all interfaces: nobody else can dial it."""
    return address.split("/")[2:3] in (["0.0.0.0"], ["::"])  # noqa: S104  # not listened on here
