"""Who this node is to others, and whom it stays connected to."""

from collections.abc import Iterable

import trio

from contracts.typed_data import Address
from gossip.errors import TransportError
from gossip.messages import Signed, encode, sign
from gossip.messages.records import MAX_MULTIADDRS, NodeRecord
from node.context import Node, now_ms
from node.roles.public import PublicState

RECORD_LIFE_MS = 600_000
"""A node record is valid for so long and renewed at half of it."""

DIAL_EVERY_S = 2.0

LONELY_S = 10.0
"""A node that has addresses to start from and no peer for so long says why."""


class Peers:
    """Announces this node's record and keeps connections to bootstrap nodes and the committee."""

    def __init__(self, node: Node, public: PublicState, roles: Iterable[str], bootstrap: Iterable[str]) -> None:
        self._node = node
        self._public = public
        self._roles = tuple(sorted(roles))
        self._bootstrap = tuple(dict.fromkeys(bootstrap))
        self._record = self._sign_record()
        self._failures: dict[str, str] = {}
        """Why the last dial to each bootstrap address failed."""

    @property
    def record(self) -> Signed[NodeRecord]:
        """This node's current record."""
        return self._record

    def find(self, address: Address) -> Signed[NodeRecord] | None:
        """The live record of ``address``."""
        return self._public.book.record(address, now_ms())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Announce and dial for ever. A user agent announces nothing: its MOR address stays its own (S34)."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._dial_bootstrap)
            nursery.start_soon(self._watch_loneliness)
            nursery.start_soon(self._dial_committee)
            if "user" not in self._roles:
                self._public.add(self._record)
                nursery.start_soon(self._announce)
            task_status.started()

    def _sign_record(self) -> Signed[NodeRecord]:
        now = now_ms()
        record = NodeRecord(
            address=self._node.address,
            peer_id=self._node.network.peer_id,
            roles=self._roles,
            multiaddrs=self._node.network.multiaddrs[:MAX_MULTIADDRS],
            sequence=now,
            expires_ms=now + RECORD_LIFE_MS,
        )
        return sign(record, self._node.key, self._node.terms.domain)

    async def _announce(self) -> None:
        """Say the record soon after start, again when the mesh has formed, then at half its life."""
        pause = 1.0
        while True:
            await self._node.network.publish(self._node.topics.records, encode(self._record))
            await trio.sleep(pause)
            pause = min(pause * 2, RECORD_LIFE_MS / 2_000)
            self._record = self._sign_record()
            self._public.add(self._record)

    async def _dial_bootstrap(self) -> None:
        async with trio.open_nursery() as nursery:
            for multiaddr in self._bootstrap:
                nursery.start_soon(self._keep_connected, multiaddr)

    async def _keep_connected(self, multiaddr: str) -> None:
        peer = multiaddr.rsplit("/p2p/", 1)[-1]
        while True:
            failure = await self._dial(peer, (multiaddr,))
            if failure is None:
                self._failures.pop(multiaddr, None)
            else:
                self._failures[multiaddr] = failure
            await trio.sleep(DIAL_EVERY_S)

    async def _watch_loneliness(self) -> None:
        """Say when there is a first peer, and say why where there is none. The first node of a network has nobody to
        look for."""
        log, since = self._node.log, trio.current_time()
        was_alone = True
        while True:
            await trio.sleep(DIAL_EVERY_S)
            if self._node.network.peers() or not self._bootstrap:
                if was_alone:
                    log.info("ready", peers=len(self._node.network.peers()))
                was_alone, since = False, trio.current_time()
            elif trio.current_time() >= since + LONELY_S:
                log.warning("no peer", for_s=round(trio.current_time() - since), tried=dict(self._failures))
                was_alone, since = True, trio.current_time()

    async def _dial_committee(self) -> None:
        """Every node talks to members directly: users and providers for matches and filings, all for batches."""
        while True:
            for member in self._public.recent_members():
                record = self.find(member)
                if record is not None:
                    await self._dial(record.payload.peer_id, record.payload.multiaddrs)
            await trio.sleep(DIAL_EVERY_S)

    async def _dial(self, peer: str, multiaddrs: tuple[str, ...]) -> str | None:
        """Connect unless there is a connection; why there is none afterwards.

        Peer id and addresses are another's words and may be no such thing.
        """
        network = self._node.network
        try:
            if peer != network.peer_id and not network.is_connected(peer):
                await network.connect(multiaddrs, timeout=5)
        except TransportError as error:
            self._node.log.debug("dial failed", reason=str(error))
            return str(error)
        return None
