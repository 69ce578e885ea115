"""What a provider that runs a full node, and all others with it, may learn of who asks (S34): everything that crosses
gossip and providers' streams is recorded on a real network and searched."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.typed_data import Address, Digest
from gossip.errors import MessageError
from gossip.messages.committee import batch_hash
from gossip.messages.market import AccessPass
from gossip.messages.session import VoucherFrame, decode_session_frame
from node.context import now_ms
from node.roles import access
from tests.consensus.builders import key
from tests.node.roles.fakes import WEI
from tests.node.roles.harness import PRICE, Lab, Running, Wire, ask, chat, open_lab, until
from tests.node.roles.test_roles_access import name_of_same_home


def forms(address: Address) -> tuple[bytes, ...]:
    """How an address may stand in a frame."""
    return bytes(address), address.hex().encode(), address.hex().upper().encode()


def values(data: Any) -> Iterator[Any]:
    """Everything in a decoded frame that could tell one from another: byte strings, texts, large numbers."""
    match data:
        case dict():
            for name, value in data.items():
                yield from values(name)
                yield from values(value)
        case list() | tuple():
            for item in data:
                yield from values(item)
        case bytes() if len(data) >= 8:
            yield data
            try:
                yield from values(msgspec.json.decode(data))
            except (msgspec.DecodeError, UnicodeDecodeError):
                return
        case str() if len(data) >= 8:
            yield data
        case int() if data >= 1 << 32:
            yield data


def seen(frames: list[bytes], session_key: Address) -> set[Any]:
    """What frames that name a session key hold beside it."""
    found: set[Any] = set()
    for frame in frames:
        if bytes(session_key) in frame:
            found |= set(values(msgspec.msgpack.decode(frame)))
    return found


def session_keys(user: Running) -> list[Address]:
    assert user.parts.agent is not None
    return [wallet.key.address for wallet in user.parts.agent._access._day.wallets]


def committed(wire: Wire) -> Iterator[Digest]:
    """The transcripts that vouchers were signed over."""
    for _, frame in wire.frames:
        with suppress(MessageError):
            if isinstance(said := decode_session_frame(frame), VoucherFrame):
                yield said.voucher.payload.transcript


async def ask_on_a_fresh_key(lab: Lab, user: Running) -> Address:
    """One answered query on a session key of its own; that key."""
    assert user.parts.agent is not None
    paid = user.parts.public.ledger.total_credited
    before = set(session_keys(user))
    for wallet in user.parts.agent._access._day.wallets:
        wallet.left = 0  # as if used up: the next RFC takes another pass
    await ask(user, chat("the same words", max_tokens=4))
    (fresh,) = set(session_keys(user)) - before
    await until(lambda: user.parts.public.ledger.total_credited == paid + 4 * PRICE, "the credit")
    await until(lambda: all(one.height == user.height for one in lab.running.values()), "everybody to have the batch")
    return fresh


async def test_colluding_providers_cannot_tell_who_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire()
    wire.watch(monkeypatch)
    async with open_lab(tmp_path, monkeypatch) as lab:
        members = await lab.start_committee()
        provider = await lab.start_provider("provider", slots=8)
        colluder = await lab.start_provider("colluder", slots=8, price_wei=PRICE * 150 // 100)
        full = await lab.start("full", ("full",))
        user = await lab.start_user("user", 500 * WEI)
        other = await lab.start_user(name_of_same_home(lab, key("user"), "other"), 300 * WEI)
        await lab.market(providers=2)
        first, second = await ask_on_a_fresh_key(lab, user), await ask_on_a_fresh_key(lab, user)
        stranger = await ask_on_a_fresh_key(lab, other)
        late = await lab.start("late", ("full",))  # what a fresh node is told by range sync counts as well
        await until(lambda: late.height == user.height, "the late one to have caught up")

        routers = {member.node.network.peer_id for member in members}
        public = [*wire.published, *(frame for peer, frame in wire.frames if peer not in routers)]
        private = {peer for peer, frame in wire.frames if any(form in frame for form in forms(user.address))}
        assert private, "routers are told, or nothing was recorded"
        assert private <= routers, "nobody else is"

        # No address, and nothing that ties the address to the peer id that everybody sees.
        for who in (user, other):
            assert not any(form in frame for frame in public for form in forms(who.address))
            assert all(
                running.parts.public.book.record(who.address, now_ms()) is None for running in lab.running.values()
            )
            peer_id = who.node.network.peer_id.encode()
            assert not any(peer_id in frame for frame in (*public, *(frame for _, frame in wire.frames)))

        # Two session keys of one user have nothing in common that a stranger's has not, nor the market at large: bids,
        # records and what else names no session key, and the chain of batches.
        # So does what vouchers commit to: the same words to everybody, of which chance says how many are in a frame.
        at_large: set[Any] = {*committed(wire), lab.genesis().beacon}
        for frame in public:
            if not any(bytes(session_key) in frame for session_key in (first, second, stranger)):
                at_large |= set(values(msgspec.msgpack.decode(frame)))
        for height in range(1, full.height + 1):
            batch = await full.node.store.get_batch(height)
            assert batch is not None
            header = [getattr(batch.header, name) for name in batch.header.__struct_fields__]
            at_large |= {batch_hash(batch.header), *values(header)}
        one, two, three = (seen(public, session_key) for session_key in (first, second, stranger))
        assert len(one) > 20, "sessions were recorded"
        assert (one & two) - three - at_large == set()

        # What the passes say of their users is coarse: two holders of 300 and 500 MOR are told apart by nothing.
        passes = {
            told.payload.session_key: told.payload
            for running in (user, other)
            for told in [wallet.granted for wallet in running.parts.agent._access._day.wallets]  # type: ignore[union-attr]
        }
        coarse = {(told.allowance, told.priority, told.day, told.issuer) for told in passes.values()}
        assert len(passes) == 3
        assert len(coarse) == 1
        assert all(isinstance(told, AccessPass) for told in passes.values())
        for running in (provider, colluder, full, late):
            data = [path.read_bytes() for path in running.node.config.data_dir.iterdir() if path.is_file()]
            assert not any(form in kept for kept in data for form in forms(user.address))


def test_another_day_means_other_session_keys() -> None:
    """Passes are daily, and what signs tomorrow has nothing to do with what signed today."""
    keys = {
        (day, number): access.session_key_of(key("user"), b"network", day, number)
        for day in range(3)
        for number in range(3)
    }
    assert len({made.address for made in keys.values()}) == 9
    assert access.session_key_of(key("user"), b"another", 0, 0).address != keys[0, 0].address
