"""Each node in a network namespace of its own, with a wire between them that is slow, loses packets and can be cut."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import trio

from node.config import NodeFile
from testnet.control import Ready
from testnet.errors import NamespacesImpossible
from testnet.processes import ROOT
from testnet.relay import DEVICE, MTU, Cut, Wire, enter, path_of

SUBNET = "10.77.0"
LAUNCHER = f"{SUBNET}.254"
"""The launcher's own address on the wire: where nodes find the chain."""
PREFIX = "yst-"
READY_S = 20.0


class Namespaces:
    """The places of one run; made by :func:`open_namespaces`."""

    def __init__(self, names: Sequence[str], nursery: trio.Nursery, relay: trio.Process) -> None:
        self._addresses = {name: f"{SUBNET}.{number + 1}" for number, name in enumerate(names)}
        self._nursery = nursery
        self._relay = relay
        self._chain_port: int | None = None

    # What the launcher asks.

    def command(self, name: str, command: Sequence[str]) -> list[str]:
        """In the node's namespace; the process keeps its id."""
        return [_ip(), "netns", "exec", namespace_of(name), *command]

    def place(self, name: str, config: NodeFile) -> NodeFile:
        """On the wire, and with the chain where the launcher forwards it."""
        chain, listen = config.chain, config.listen
        if chain.rpc_url:
            port = urlsplit(chain.rpc_url).port
            chain = msgspec.structs.replace(chain, rpc_url=f"http://{LAUNCHER}:{port}")
        if listen.p2p[0].startswith("/ip4/127.0.0.1/"):
            listen = msgspec.structs.replace(listen, p2p=(f"/ip4/{self._addresses[name]}/tcp/0",))
        return msgspec.structs.replace(config, chain=chain, listen=listen)

    async def reach(self, name: str, ready: Ready) -> Ready:
        """Its HTTP endpoints by ports of the launcher's own loopback."""
        control = await self._forward(name, ready.control_url)
        gateway = None if ready.gateway_url is None else await self._forward(name, ready.gateway_url)
        return msgspec.structs.replace(ready, control_url=control, gateway_url=gateway)

    # What happens on the wire.

    async def cut(self, *away: str) -> None:
        """Cut the nodes ``away`` off from all others; none: heal."""
        line = msgspec.json.encode(Cut(tuple(namespace_of(name) for name in away))) + b"\n"
        if self._relay.stdin is not None:
            await self._relay.stdin.send_all(line)

    async def prepare(self, rpc_url: str) -> None:
        """Forward a chain on the launcher's loopback, at the same port."""
        port = urlsplit(rpc_url).port or 0
        if self._chain_port == port:
            return
        self._chain_port = port
        listeners = await trio.open_tcp_listeners(port, host=LAUNCHER)
        dial = partial(trio.open_tcp_stream, "127.0.0.1", port)
        self._nursery.start_soon(trio.serve_listeners, partial(_pump_both, dial), listeners)

    async def _forward(self, name: str, url: str) -> str:
        port = urlsplit(url).port or 0
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        handler = partial(_pump_both, partial(_dial_inside, name, port))
        self._nursery.start_soon(trio.serve_listeners, handler, listeners)
        return f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"


def namespace_of(name: str) -> str:
    """A node's namespace."""
    return PREFIX + name


@asynccontextmanager
async def open_namespaces(
    names: Sequence[str], *, delay_ms: int, loss_percent: float, seed: int, log: Path
) -> AsyncIterator[Namespaces]:
    """A namespace a node and the wire between them; leaving removes all of it. Raises NamespacesImpossible."""
    check_possible()
    remove_namespaces()
    try:
        for name in names:
            await _run_ip("netns", "add", namespace_of(name))
        wire = Wire(
            {namespace_of(name): f"{SUBNET}.{number + 1}" for number, name in enumerate(names)} | {"": LAUNCHER},
            delay_ms,
            loss_percent,
            seed,
        )
        command = [sys.executable, "-m", "testnet.relay", msgspec.json.encode(wire).decode()]
        with log.open("wb") as errors:
            relay = await trio.lowlevel.open_process(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, start_new_session=True
            )
        try:
            await _configure(relay, wire, log)
            async with trio.open_nursery() as nursery:
                yield Namespaces(names, nursery, relay)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                relay.terminate()
                await relay.wait()
    finally:
        remove_namespaces()


async def _configure(relay: trio.Process, wire: Wire, log: Path) -> None:
    """Once the devices are there: addresses, and up."""
    with trio.move_on_after(READY_S):
        if relay.stdout is not None and (await relay.stdout.receive_some(64)).startswith(b"ready"):
            for name, address in wire.nodes.items():
                where = ["-n", name] if name else []
                await _run_ip(*where, "address", "add", f"{address}/24", "dev", DEVICE)
                await _run_ip(*where, "link", "set", DEVICE, "mtu", str(MTU), "up")
                if name:
                    await _run_ip(*where, "link", "set", "lo", "up")
            return
    raise NamespacesImpossible(f"the relay did not start; {log} says why: {log.read_text(errors='replace')[-500:]}")


def check_possible() -> None:
    """Raise :class:`NamespacesImpossible` naming what this machine lacks."""
    lacking = []
    if os.geteuid() != 0:
        lacking.append("root")
    if shutil.which("ip") is None:
        lacking.append("the command ip (package iproute2)")
    if not Path("/dev/net/tun").exists():
        lacking.append("/dev/net/tun (the kernel's TUN devices)")
    if lacking:
        raise NamespacesImpossible("this needs " + ", and ".join(lacking))


def remove_namespaces() -> None:
    """Whatever an earlier run left behind."""
    folder = path_of("")
    for path in folder.glob(f"{PREFIX}*") if folder.is_dir() else ():
        subprocess.run([_ip(), "netns", "delete", path.name], check=False, capture_output=True)  # noqa: S603  # own names


def _ip() -> str:
    return shutil.which("ip") or "ip"


async def _run_ip(*arguments: str) -> None:
    done = await trio.run_process([_ip(), *arguments], capture_stdout=True, capture_stderr=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip()
        raise NamespacesImpossible(f"ip {' '.join(arguments)}: {reason}")


async def _dial_inside(name: str, port: int) -> trio.SocketStream:
    raw = await trio.to_thread.run_sync(_socket_inside, path_of(namespace_of(name)))
    stream = trio.socket.from_stdlib_socket(raw)
    await stream.connect(("127.0.0.1", port))
    return trio.SocketStream(stream)


def _socket_inside(namespace: Path) -> socket.socket:
    """A socket stays in the namespace in which it was made; the thread comes back."""
    with Path("/proc/thread-self/ns/net").open("rb") as own, namespace.open("rb") as other:
        enter(other.fileno())
        try:
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        finally:
            enter(own.fileno())


async def _pump_both(dial: Callable[[], Awaitable[trio.SocketStream]], stream: trio.SocketStream) -> None:
    """Join a connection with another until both have ended or one has broken."""
    try:
        other = await dial()
    except OSError:
        await stream.aclose()
        return
    async with stream, other, trio.open_nursery() as nursery:
        nursery.start_soon(_pump, stream, other)
        nursery.start_soon(_pump, other, stream)


async def _pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    try:
        async for data in source:
            await sink.send_all(data)
        await sink.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await trio.aclose_forcefully(sink)
        await trio.aclose_forcefully(source)
