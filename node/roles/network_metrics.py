"""What the network counts, as Prometheus counters: read when they are asked for, kept nowhere else."""

from collections.abc import Callable, Iterable

from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from gossip.network import NetworkStatistics


class NetworkMetrics(Collector):
    """Messages, bytes and drops of gossip; ``statistics`` is :meth:`gossip.network.Network.statistics`."""

    def __init__(self, statistics: Callable[[], NetworkStatistics]) -> None:
        self._statistics = statistics

    def collect(self) -> Iterable[Metric]:
        """The counters now."""
        now = self._statistics()
        yield _counter(
            "yellowstone_gossip_messages",
            "Gossip messages received (copies included), published by this node, and delivered to its roles",
            "way",
            {"received": now.messages_in, "published": now.messages_out, "delivered": now.delivered},
        )
        yield _counter("yellowstone_gossip_bytes", "Gossip bytes", "way", {"in": now.bytes_in, "out": now.bytes_out})
        yield _counter(
            "yellowstone_network_drops",
            "Messages dropped and tasks failed, by reason; duplicate is the mesh's redundancy and no loss",
            "reason",
            now.drops,
        )


def _counter(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
