"""The wire between network namespaces: every packet is delayed, some are lost, and links can be cut.

A process of its own, for it must not wait for anybody. Each namespace has a TUN device whose other end is here, so that
whatever a node sends comes by as an IPv4 packet. The kernel's own way, ``tc netem``, is a module that many kernels
lack; this needs /dev/net/tun alone. One line of JSON on standard input sets who is cut off from whom.

Run as ``python -m testnet.relay '{"nodes": {"namespace": "10.77.0.1", …}, "delay_ms": 50, "loss_percent": 1, …}'``.
"""

import ctypes
import errno
import fcntl
import json
import os
import random
import struct
import sys
from collections import deque
from pathlib import Path

import msgspec
import trio

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
CLONE_NEWNET = 0x40000000

DEVICE = "wire"
"""The TUN device's name in every namespace."""

MTU = 1_400
QUEUE_PACKETS = 20_000
"""Packets under way to one node at most; more are lost, as on any wire."""


class Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the relay is started with."""

    nodes: dict[str, str]
    """Namespace to IPv4 address; the empty name is the launcher's own."""
    delay_ms: int
    """One way."""
    loss_percent: float
    seed: int


class Cut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nobody of ``away`` reaches anybody else, but one another; nobody: all links are whole."""

    away: tuple[str, ...] = ()


def enter_namespace(path: Path) -> None:
    """Move the calling thread into the network namespace at ``path``. Raises OSError."""
    with path.open("rb") as file:
        enter(file.fileno())


def enter(namespace: int) -> None:
    """The same for a descriptor that is open already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def path_of(name: str) -> Path:
    """Where ``ip netns`` keeps a namespace."""
    return Path("/run/netns") / name


def open_tun() -> int:
    """A TUN device in the calling thread's namespace; packets come and go without any header of its own."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH14x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    return tun


class Relay:
    """Carries packets between the devices of a wire."""

    def __init__(self, wire: Wire, devices: dict[bytes, int]) -> None:
        self._devices = devices
        self._delay_s = wire.delay_ms / 1_000
        self._loss = wire.loss_percent / 100
        self._random = random.Random(wire.seed)  # noqa: S311  # a seeded choice of what is lost
        self._away: frozenset[bytes] = frozenset()
        self._queues: dict[bytes, deque[tuple[float, bytes]]] = {address: deque() for address in devices}
        self._woken = {address: trio.Event() for address in devices}
        self.carried = self.lost = self.cut = 0

    async def run(self) -> None:
        """Carry for ever."""
        async with trio.open_nursery() as nursery:
            for address, device in self._devices.items():
                nursery.start_soon(self._take, address, device)
                nursery.start_soon(self._give, address, device)

    def separate(self, away: frozenset[bytes]) -> None:
        """Cut the links between ``away`` and the rest."""
        self._away = away

    async def _take(self, source: bytes, device: int) -> None:
        while True:
            await trio.lowlevel.wait_readable(device)
            try:
                while True:
                    self._route(source, os.read(device, 65_536))
            except BlockingIOError:
                continue

    def _route(self, source: bytes, packet: bytes) -> None:
        target = packet[16:20]
        queue = self._queues.get(target)
        if queue is None or packet[0] >> 4 != 4:
            return
        if (source in self._away) != (target in self._away):
            self.cut += 1
        elif len(queue) >= QUEUE_PACKETS or self._random.random() < self._loss:
            self.lost += 1
        else:
            queue.append((trio.current_time() + self._delay_s, packet))
            self._woken[target].set()

    async def _give(self, address: bytes, device: int) -> None:
        queue = self._queues[address]
        while True:
            while queue:
                await trio.sleep_until(queue[0][0])
                self._write(device, queue.popleft()[1])
            self._woken[address] = trio.Event()
            await self._woken[address].wait()

    def _write(self, device: int, packet: bytes) -> None:
        try:
            os.write(device, packet)
            self.carried += 1
        except OSError as error:
            if error.errno not in {errno.EIO, errno.ENOBUFS, errno.EAGAIN, errno.EINVAL}:  # the device is down or full
                raise
            self.lost += 1


async def _serve(wire: Wire, devices: dict[bytes, int]) -> None:
    relay = Relay(wire, devices)
    commands = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    async with trio.open_nursery() as nursery, commands:
        nursery.start_soon(relay.run)
        buffer = b""
        while data := await commands.receive_some(4_096):
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                cut = msgspec.json.decode(line, type=Cut)
                relay.separate(frozenset(_packed(wire.nodes[name]) for name in cut.away))
        nursery.cancel_scope.cancel()
    sys.stderr.write(json.dumps({"carried": relay.carried, "lost": relay.lost, "cut": relay.cut}) + "\n")


def _packed(address: str) -> bytes:
    return bytes(int(part) for part in address.split("."))


def main() -> None:
    """Open a device in every namespace, say ``ready``, carry until standard input ends."""
    wire = msgspec.json.decode(sys.argv[1], type=Wire)
    devices = {}
    with Path("/proc/self/ns/net").open("rb") as own:
        for name, address in wire.nodes.items():
            if name:
                enter_namespace(path_of(name))
            devices[_packed(address)] = open_tun()
            enter(own.fileno())
    trio.run(_serve, wire, devices)


if __name__ == "__main__":
    main()
