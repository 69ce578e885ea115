"""The wire between namespaces: who gets which packet, what is lost, and who is cut off."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from testnet import netns
from testnet.errors import NamespacesImpossible
from testnet.relay import Relay, Wire

ONE, TWO, THREE = (bytes([10, 77, 0, number]) for number in (1, 2, 3))


def packet(source: bytes, target: bytes, text: bytes, version: int = 4) -> bytes:
    return bytes([version << 4 | 5]) + bytes(11) + source + target + text


@contextmanager
def wired(delay_ms: int = 1, loss_percent: float = 0) -> Iterator[tuple[Relay, dict[bytes, socket.socket]]]:
    """A relay whose devices are socket pairs; the other ends by address."""
    pairs = {address: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for address in (ONE, TWO, THREE)}
    for device, end in pairs.values():
        device.setblocking(False)
        end.setblocking(False)
    try:
        wire = Wire({}, delay_ms, loss_percent, seed=1)
        yield (
            Relay(wire, {address: device.fileno() for address, (device, _) in pairs.items()}),
            {address: end for address, (_, end) in pairs.items()},
        )
    finally:
        for device, end in pairs.values():
            device.close()
            end.close()


async def heard(end: socket.socket) -> bytes:
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(end)
    return os.read(end.fileno(), 2_000)[20:]


async def test_packets_go_to_whom_they_name_in_order() -> None:
    with wired() as (relay, ends):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.run)
            for number in range(20):
                os.write(ends[ONE].fileno(), packet(ONE, TWO, bytes([number])))
            os.write(ends[ONE].fileno(), packet(ONE, THREE, b"three"))
            assert [await heard(ends[TWO]) for _ in range(20)] == [bytes([number]) for number in range(20)]
            assert await heard(ends[THREE]) == b"three"
            # what is no IPv4, or for nobody here, goes nowhere
            os.write(ends[ONE].fileno(), packet(ONE, TWO, b"six", version=6))
            os.write(ends[ONE].fileno(), packet(ONE, bytes(4), b"nobody"))
            os.write(ends[ONE].fileno(), packet(ONE, TWO, b"last"))
            assert await heard(ends[TWO]) == b"last"
            nursery.cancel_scope.cancel()
        assert (relay.lost, relay.cut) == (0, 0)


async def test_who_is_cut_off_reaches_only_its_own_side() -> None:
    with wired() as (relay, ends):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.run)
            relay.separate(frozenset({ONE, TWO}))
            os.write(ends[ONE].fileno(), packet(ONE, THREE, b"cut"))
            os.write(ends[THREE].fileno(), packet(THREE, TWO, b"cut"))
            os.write(ends[ONE].fileno(), packet(ONE, TWO, b"beside"))
            assert await heard(ends[TWO]) == b"beside"
            while relay.cut < 2:
                await trio.lowlevel.checkpoint()
            relay.separate(frozenset())
            os.write(ends[ONE].fileno(), packet(ONE, THREE, b"healed"))
            assert await heard(ends[THREE]) == b"healed"
            nursery.cancel_scope.cancel()


async def test_packets_are_lost_as_often_as_said() -> None:
    with wired(loss_percent=30) as (relay, ends):
        for number in range(1_000):
            relay._route(ONE, packet(ONE, TWO, bytes([number % 256])))
        assert 230 <= relay.lost <= 370
        assert len(relay._queues[TWO]) == 1_000 - relay.lost
        assert ends


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testnet.netns.os.geteuid", lambda: 1_000)
    monkeypatch.setattr("testnet.netns.shutil.which", lambda _: None)
    monkeypatch.setattr(Path, "exists", lambda _: False)
    with pytest.raises(NamespacesImpossible) as error:
        netns.check_possible()
    for lacking in ("root", "iproute2", "/dev/net/tun"):
        assert lacking in str(error.value)
