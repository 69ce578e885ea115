"""Multiaddrs: what is spoken, what is told to others, and names that are resolved at each dial."""

import socket
from typing import Any

import pytest
import trio

from gossip.addresses import find_fault, is_unspecified
from gossip.errors import PeerUnreachable
from gossip.network import NetworkConfig, open_network
from tests.gossip.nets import FAST, seed

PEER = "12D3KooWA6i5LGhhSm4HehtWPCZ4f7hTpb6L1Meb7KCjoz3umcnY"


@pytest.mark.parametrize(
    "address",
    ["/ip4/203.0.113.7/tcp/28555", "/ip6/2001:db8::1/tcp/1", "/dns4/node.example/tcp/65535", "/dns/localhost/tcp/4001"],
)
def test_what_is_spoken_has_no_fault(address: str) -> None:
    assert find_fault(address) is None
    assert find_fault(f"{address}/p2p/{PEER}", names_peer=True) is None


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:4001", "not a multiaddr"),
        ("/ip4/127.0.0.1", "not a multiaddr"),
        ("/ip4/300.0.0.1/tcp/1", "no IPv4 address"),
        ("/ip4/::1/tcp/1", "no IPv4 address"),
        ("/ip6/127.0.0.1/tcp/1", "no IPv6 address"),
        ("/dns4/-bad-/tcp/1", "no DNS name"),
        ("/dnsaddr/node.example/tcp/1", "/dnsaddr, which is not supported"),
        ("/unix/a/tcp/1", "/unix, which is not supported"),
        ("/ip4/127.0.0.1/udp/1/quic-v1", "over udp, which is not supported"),
        ("/ip4/127.0.0.1/tcp/1/ws", "/ws, which is not supported"),
        ("/ip4/127.0.0.1/tcp/99999", "no port"),
        ("/ip4/127.0.0.1/tcp/0", "no port"),
        ("/ip4/127.0.0.1/tcp/1/p2p/0OIl", "no peer id"),
    ],
)
def test_what_is_not_spoken_is_named(address: str, reason: str) -> None:
    fault = find_fault(address)
    assert fault is not None
    assert reason in fault
    assert repr(address) in fault


def test_who_must_name_a_peer_or_an_ip_address() -> None:
    assert find_fault("/ip4/127.0.0.1/tcp/1", names_peer=True) is not None
    assert find_fault(f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}", names_peer=False) is not None
    assert find_fault("/dns4/node.example/tcp/1", is_listened_on=True) is not None
    assert find_fault("/ip4/127.0.0.1/tcp/0", is_listened_on=True) is None
    assert [is_unspecified(f"/ip4/{host}/tcp/1") for host in ("0.0.0.0", "127.0.0.1")] == [True, False]


async def test_all_interfaces_are_told_by_their_addresses() -> None:
    config = NetworkConfig(listen=("/ip4/0.0.0.0/tcp/0",))
    async with open_network(config, seed(1)) as network:
        assert network.multiaddrs
        assert not [address for address in network.multiaddrs if is_unspecified(address)]
        assert all(find_fault(address, names_peer=True) is None for address in network.multiaddrs)


async def test_what_is_to_be_announced_is_announced_instead() -> None:
    config = NetworkConfig(announce=("/dns4/node.example/tcp/28555", "/ip6/2001:db8::1/tcp/28555"))
    async with open_network(config, seed(1)) as network:
        assert network.multiaddrs == tuple(f"{address}/p2p/{network.peer_id}" for address in config.announce)


class Names(trio.abc.HostnameResolver):
    """A resolver that knows nobody at first, and later this machine."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.answers = [[], ["127.0.0.1"]]

    async def getaddrinfo(  # noqa: PLR0917  # the library's shape
        self,
        host: bytes | None,
        port: Any,
        family: int = 0,
        type: int = 0,  # noqa: ARG002  # as above
        proto: int = 0,  # noqa: ARG002  # as above
        flags: int = 0,  # noqa: ARG002  # as above
    ) -> Any:
        self.asked.append((host, family))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found, port)) for found in self.answers.pop(0)]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


@pytest.mark.parametrize(("kind", "family"), [("dns", socket.AF_UNSPEC), ("dns4", socket.AF_INET)])
async def test_a_name_is_resolved_at_each_dial(kind: str, family: int) -> None:
    names = Names()
    trio.socket.set_custom_hostname_resolver(names)
    async with open_network(FAST, seed(1)) as one, open_network(FAST, seed(2)) as other:
        port = one.multiaddrs[0].split("/")[4]
        address = f"/{kind}/node.example/tcp/{port}/p2p/{one.peer_id}"
        with pytest.raises(PeerUnreachable, match=r"node\.example"):
            await other.connect([address], timeout=5)
        await other.connect([address], timeout=5)
        assert other.is_connected(one.peer_id)
    assert names.asked == [(b"node.example", family)] * 2
