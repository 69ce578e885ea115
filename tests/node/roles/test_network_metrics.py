"""What the network counts is there for Prometheus, drops by reason."""

import math

import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gossip.network import Network, Verdict
from node.roles.network_metrics import NetworkMetrics
from tests.gossip.nets import open_pair, until


def read(net: Network) -> dict[tuple[str, str], float]:
    """Metric and label, and what it stands at."""
    registry = CollectorRegistry()
    registry.register(NetworkMetrics(net.statistics))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, next(iter(sample.labels.values()))): sample.value
        for family in families
        for sample in family.samples
    }


async def test_messages_and_drops_are_counted_by_reason() -> None:
    def judge(data: bytes, _: str) -> Verdict:
        return Verdict.ACCEPT if data == b"good" else Verdict.IGNORE

    async with open_pair() as (one, other):
        await one.publish("nobody", b"listens")
        reader = await other.subscribe("t", judge, max_bytes=10)
        await until(lambda: one.subscribers("t"))
        for data in (b"bad", b"x" * 11, b"good"):
            await one.publish("t", data)
        with trio.fail_after(5):
            await reader.receive()
        said, heard = read(one), read(other)
        assert said["yellowstone_gossip_messages_total", "published"] == 4
        assert said["yellowstone_network_drops_total", "published_to_nobody"] == 1
        assert heard["yellowstone_gossip_messages_total", "received"] == 3
        assert heard["yellowstone_gossip_messages_total", "delivered"] == 1
        assert heard["yellowstone_network_drops_total", "ignored"] == 1
        assert heard["yellowstone_network_drops_total", "too_large"] == 1
        assert math.isclose(heard["yellowstone_gossip_bytes_total", "in"], other.statistics().bytes_in)
