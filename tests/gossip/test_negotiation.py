"""Agreeing on a protocol, with ourselves and with garbage."""

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.hardening.negotiation import NegotiationFailed, accept, propose


class Wire:
    """One end of a byte stream in memory."""

    def __init__(self, send: trio.MemorySendChannel[bytes], receive: trio.MemoryReceiveChannel[bytes]) -> None:
        self.send, self.receive, self.buffer, self.writes = send, receive, b"", 0

    async def read(self, n: int | None = None) -> bytes:
        while not self.buffer:
            try:
                self.buffer = await self.receive.receive()
            except trio.EndOfChannel:
                return b""
        taken, self.buffer = self.buffer[:n], self.buffer[n:] if n is not None else b""
        return taken

    async def write(self, data: bytes) -> None:
        self.writes += 1
        await self.send.send(data)


def wires() -> tuple[Wire, Wire]:
    one_to_other, other_from_one = trio.open_memory_channel[bytes](100)
    other_to_one, one_from_other = trio.open_memory_channel[bytes](100)
    return Wire(one_to_other, one_from_other), Wire(other_to_one, other_from_one)


async def agree(wanted: list[str], known: set[str]) -> tuple[str, str]:
    one, other = wires()
    found: list[str] = []

    async def listen() -> None:
        found.append(await accept(other, known))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            chosen = await propose(one, wanted)
    return chosen, found[0]


async def test_the_first_protocol_that_both_know_is_spoken() -> None:
    assert await agree(["/a", "/b"], {"/a", "/b"}) == ("/a", "/a")
    assert await agree(["/x", "/b"], {"/a", "/b"}) == ("/b", "/b")


async def test_names_of_more_than_127_bytes_work() -> None:
    name = "/" + "n" * 200
    assert await agree([name], {name}) == (name, name)


async def test_one_write_is_enough_for_the_dialler() -> None:
    one, other = wires()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept, other, {"/a"})
        await propose(one, ["/a"])
    assert one.writes == 1


async def test_nothing_in_common_fails_on_both_sides() -> None:
    one, other = wires()

    async def listen() -> None:
        with pytest.raises(NegotiationFailed):
            await accept(other, {"/b"})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        with pytest.raises(NegotiationFailed):
            await propose(one, ["/a"])
        one.send.close()


async def test_a_peer_may_not_propose_for_ever() -> None:
    one, other = wires()
    hello = b"\x13/multistream/1.0.0\n"
    await one.write(hello + b"\x03/a\n" * 50)
    with pytest.raises(NegotiationFailed, match="none of 8"):
        await accept(other, {"/b"})


@settings(max_examples=100, deadline=None)
@given(garbage=st.binary(max_size=400), polite=st.booleans())
def test_garbage_raises_nothing_but_failed(garbage: bytes, polite: bool) -> None:
    async def main() -> None:
        for listens in (True, False):
            one, other = wires()
            await one.write((b"\x13/multistream/1.0.0\n" if polite else b"") + garbage)
            one.send.close()
            with pytest.raises(NegotiationFailed):
                await (accept(other, {"/a"}) if listens else propose(other, ["/a"]))

    trio.run(main)
