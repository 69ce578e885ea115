"""What the benchmarks compute; the measurements themselves need a network and time."""

import io
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from node.replay import Checks
from testnet.bench import ledger
from testnet.bench.__main__ import short_command
from testnet.bench.capacity import measure_capacity
from testnet.bench.figures import Figures, percentile
from testnet.bench.gossip import Load, measure_gossip
from testnet.bench.inference import Comparison, Sample, Side
from testnet.bench.memory import read_groups, read_resident
from testnet.bench.padding import measure_padding
from testnet.bench.replay import measure_replay
from testnet.bench.start import measure_start
from testnet.errors import OptionInvalid, TestnetError
from testnet.progress import Progress


def test_figures_of_a_known_sample() -> None:
    assert Figures.of([float(i) for i in range(100, 0, -1)]) == Figures(100, 50.0, 90.0, 99.0, 100.0)
    assert Figures.of([7.0]) == Figures(1, 7.0, 7.0, 7.0, 7.0)
    with pytest.raises(ValueError, match="nothing"):
        Figures.of([])


@settings(max_examples=100)
@given(st.lists(st.integers(0, 1_000), min_size=1), st.integers(1, 100))
def test_a_percentile_is_the_smallest_value_that_covers_it(sample: list[int], percent: int) -> None:
    value = percentile(sorted(sample), percent)
    covered = sum(item <= value for item in sample)
    below = sum(item < value for item in sample)
    assert covered * 100 >= percent * len(sample) > below * 100


async def test_one_provider_process_serves_many_streams_in_full() -> None:
    """The whole path of a session, in two processes; how fast is measured, not asserted."""
    found = await measure_capacity(4, 200.0, 0.2)
    assert (found.streams, found.rates.count) == (4, 4)
    assert found.gaps_ms.count > 0
    assert next(row[1] for row in found.rows()) == "4"
    assert found.core_percent > 0


def test_both_ways_to_an_engine_are_compared_pair_by_pair() -> None:
    sides = Comparison(Side(), Side())
    for direct_s, network_s in ((0.010, 0.030), (0.500, 0.510), (0.020, 0.050)):
        sides.direct.samples[1].append(Sample(11, direct_s, direct_s + 0.100))
        sides.network.samples[1].append(Sample(11, network_s, network_s + 0.102))
    for at_once in (1, 4):
        sides.direct.rates[at_once] += [100.0, 90.0, 110.0]
        sides.network.rates[at_once] += [97.0, 20.0, 98.0]
    added = sides.added_ttft_ms()
    assert (round(added.p50), round(added.p99)) == (20, 30)
    assert round(sides.added_token_ms(), 3) == 0.2
    rows = {row[0]: row[1:] for row in sides.rows()}
    assert rows["T/s, 4 at once"][:3] == ("100.0", "97.0", "97.0 %")
    assert rows["ms a T"][2] == "+0.20"


def test_the_comparison_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib comes with the plot extra")
    sides = Comparison(Side(), Side())
    for side in (sides.direct, sides.network):
        side.samples[1].append(Sample(11, 0.1, 0.2))
        for at_once in (1, 4):
            side.rates[at_once] += [100.0, 90.0]
    sides.plot(tmp_path / "new" / "plot.png")
    assert (tmp_path / "new" / "plot.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(TestnetError, match="cannot write"):
        sides.plot(tmp_path / "plot.words")


async def test_padded_frames_have_one_size_and_cost_bytes() -> None:
    ways = await measure_padding(1, 200.0, 20)
    assert len(ways["padded"].sizes) == 1
    assert ways["padded"].bytes_per_t[0] > ways["plain"].bytes_per_t[0]


def make_process(proc: Path, pid: int, group: int, rss: str = "VmRSS:\t   2048 kB\n", name: str = "python") -> None:
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "stat").write_text(f"{pid} ({name}) S 1 {group} {group} 0 -1 4194304 1 2 3 4 70 30 5 6\n")
    (folder / "status").write_text(f"Name:\t{name}\n{rss}Threads:\t1\n")
    (folder / "cmdline").write_bytes(b"python\0-m\0node.cli\0run\0")


def test_memory_is_read_by_group(tmp_path: Path) -> None:
    make_process(tmp_path, 10, 10)
    make_process(tmp_path, 11, 10, name="evil) R 9 (name")
    make_process(tmp_path, 12, 99)
    make_process(tmp_path, 13, 10, rss="")  # a zombie
    (tmp_path / "version").touch()
    found = read_groups({10, 20}, tmp_path)
    assert sorted(process.pid for process in found[10]) == [10, 11]
    assert found[20] == []
    assert {process.rss_kib for process in found[10]} == {2_048}
    assert {process.cpu_ticks for process in found[10]} == {100}
    assert read_resident(14, tmp_path) is None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_this_process_has_memory() -> None:
    own = read_resident(os.getpid())
    assert own is not None
    assert own.group == os.getpgrp()
    assert own.rss_kib > 1_024
    assert own.cpu_ticks > 0


def test_commands_are_named_by_their_module() -> None:
    assert short_command("python -m inference.llamacpp.worker") == "inference.llamacpp.worker"
    assert short_command("anvil --port 0") == "anvil --port 0"


def test_a_node_starts_from_its_snapshot_and_from_genesis(tmp_path: Path) -> None:
    progress = Progress(Console(file=io.StringIO()))
    quick, whole = measure_start(6, 3, 2, tmp_path, progress)
    assert (quick.begins_at, whole.begins_at) == (4, 0)
    assert quick.settlements == whole.settlements == 18
    assert quick.snapshot_bytes > 0 == whole.snapshot_bytes
    assert not list(tmp_path.iterdir())


def test_a_made_up_log_is_replayed_at_two_sizes_and_removed(tmp_path: Path) -> None:
    progress = Progress(Console(file=io.StringIO()))
    half, whole = measure_replay(4, 3, Checks(), tmp_path, progress)
    assert [(run.batches, run.settlements) for run in (half, whole)] == [(2, 6), (4, 12)]
    assert min(half.seconds, whole.seconds) > 0
    assert list(tmp_path.iterdir()) == []


def test_every_bid_reaches_twenty_hosts() -> None:
    """20 bids a second; how long they take is measured by ``python -m testnet.bench gossip``."""
    load = Load(seconds=2)
    outcome = measure_gossip(load, Progress(Console(file=io.StringIO())))
    assert (load.hosts, load.bids, load.deliveries) == (20, 40, 40 * 19)
    assert set(outcome.published) == set(range(40))
    assert Counter(bid for bid, _ in outcome.received) == dict.fromkeys(range(40), 19)
    assert set(outcome.drops) == {"duplicate"}
    assert outcome.latencies().count == load.deliveries


def test_too_few_hosts_for_the_ring_are_refused() -> None:
    with pytest.raises(OptionInvalid, match="--nodes 10"):
        measure_gossip(Load(hosts=10), Progress(Console(file=io.StringIO())))


def test_the_ledgers_bench_settles_what_it_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "SIZES", (10,))
    monkeypatch.setattr(ledger, "REPORTS", 5)
    whats = [what for what, _, _ in ledger.rows()]
    assert "settle a report, 10 accounts" in whats
    assert "one credit changed among 10" in whats
