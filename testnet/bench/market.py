"""One provider and one user of a session, without a network round them: keys, terms and tickets for benchmarks."""

from hashlib import sha256

from consensus.params import NetworkParams, Terms
from contracts.signing import Key
from contracts.typed_data import ZERO_ADDRESS, Digest, Domain
from gossip.messages.base import Signed, Unit, sign
from gossip.messages.market import Ticket
from gossip.messages.records import Bid

TERMS = Terms(Domain(77_101, ZERO_ADDRESS), 0, NetworkParams())
FAR_MS = 2**62


def bench_key(name: str) -> Key:
    """The same in every run: worth nothing, for benchmarks alone."""
    return Key(sha256(b"bench " + name.encode()).digest())


PROVIDER, ROUTER = bench_key("provider"), bench_key("router")


def make_ticket(model_id: Digest, number: int, session: Key, *, tokens: int, slots: int) -> Signed[Ticket]:
    """A ticket that the provider takes, for an answer of at most ``tokens`` T."""
    domain = TERMS.domain
    bid = Bid(PROVIDER.address, model_id, Unit.TEXT_TOKEN, 10**11, slots, 4_096, 1, FAR_MS)
    ticket = Ticket(
        Digest(number.to_bytes(32, "big")),
        session.address,
        sign(bid, PROVIDER, domain),
        tokens,
        4_096,
        1,
        FAR_MS,
        ROUTER.address,
    )
    return sign(ticket, ROUTER, domain)
