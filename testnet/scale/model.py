"""The formulas: what N nodes and R RFCs a second cost each role. Arithmetic on :class:`Constants`.

A network of N nodes has ``members(N)`` members; a tenth of its nodes are providers, two tenths full nodes that serve
nobody, the rest are users' agents. Each node has ``DEGREE`` mesh peers in each topic, so it reads a message once and
``repeats`` times more, and sends it on as often as others read it from it: what sending costs is in ``frame``.
"""

from dataclasses import dataclass

from consensus.market.indexes import PAGE
from consensus.params import NetworkParams
from gossip.topics import RFC_SHARDS
from inference.session.pace import compute_gap_s
from node.roles.demand import FOLLOWERS
from testnet.scale.constants import Constants

MAX_MEMBERS = 64
BID_EVERY_S = 60.0
"""A provider says its bid, its proof and its record anew: three messages."""
TOKENS = 500
"""T of an answer."""
TOKEN_RATE = 50.0
"""T a second of an answer."""
PASSES_A_DAY = 2
"""Session keys that an agent asks a pass for."""
DAY_S = 86_400
BASE_BYTES = 130 << 20
"""A node that has nothing to do; see testnet/README.md."""


@dataclass(frozen=True, slots=True)
class Design:
    """What can be chosen."""

    followers: int = FOLLOWERS
    """Members that follow each of the RFC topics."""
    node_shards: int = 0
    """Topics that a full node or a user's agent follows."""
    provider_shards: int = 0
    checks_batches: bool = True
    """Whether who follows the ledger checks the signatures of what more than 2/3 of the committee have certified."""
    batch_settlements: int = NetworkParams().batch_settlements
    paced: bool = True
    """Whether answers of a busy provider put several T into a frame."""
    keeps_tickets: bool = False
    """Whether the ids of a day's settled tickets are kept in memory."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one node: messages and bytes read and CPU seconds, each a second, and memory in bytes at a day's end."""

    role: str
    messages: float
    bytes: float
    cpu: float
    memory: float
    parts: tuple[tuple[str, float], ...]
    """What the CPU goes into."""


def members(nodes: int) -> int:
    """A third of the nodes, 4 at least and 64 at most."""
    return max(4, min(MAX_MEMBERS, nodes // 3))


def providers(nodes: int) -> int:
    """A tenth of the nodes, 2 at least."""
    return max(2, nodes // 10)


def users(nodes: int) -> int:
    """Who is neither member nor provider nor a full node that serves nobody."""
    return max(1, nodes - members(nodes) - providers(nodes) - nodes // 5)


def frame_tokens(answers: float) -> float:
    """T in a frame of a provider with so many answers at once; the voucher window bounds them."""
    return min(float(NetworkParams().voucher_window), max(1.0, TOKEN_RATE * compute_gap_s(answers)))


def costs(nodes: int, rate: float, of: Constants, design: Design) -> tuple[Cost, ...]:
    """A cost for each role."""
    return tuple(_role(role, nodes, rate, of, design) for role in ("full node", "user", "provider", "member"))


def ceiling_rate(design: Design) -> float:
    """RFCs a second that batches can settle: so many in each of 12 s."""
    return design.batch_settlements / (NetworkParams().slot_ms / 1_000)


def _role(role: str, nodes: int, rate: float, of: Constants, design: Design) -> Cost:
    """The sum of what a role takes part in.

    - *host*: its connections, whatever happens.
    - *book*: N / 10 providers say three messages a minute, each checked once: 3 N / 600 a second.
    - *rfc*: R × shards / 16 RFCs, each checked once.
    - *batches*: one message a slot of R × 12 settlements; a certificate of m signatures. Each settlement is decoded,
      applied and stored by every node that follows the ledger, users' agents too, and its signatures are checked
      where ``checks_batches`` says so. A member has checked them before.
    """
    m, sellers = members(nodes), providers(nodes)
    shared = min(float(RFC_SHARDS), RFC_SHARDS * design.followers / m)
    shards = {"member": shared, "provider": design.provider_shards}.get(role, design.node_shards)
    slot_s = NetworkParams().slot_ms / 1_000
    book, rfcs = 3 * sellers / BID_EVERY_S, rate * shards / RFC_SHARDS
    copies = 1 + of.repeats
    checks = design.checks_batches and role != "member"
    parts = {
        "host": of.host,
        "book": book * (copies * of.frame + of.recover),
        "rfc gossip": rfcs * copies * of.frame,
        "rfc checks": rfcs * of.rfc_check,
        "ledger": rate * (of.settle + of.store) + copies * of.frame / slot_s + m * of.certificate / slot_s,
        "settlement checks": rate * of.verify if checks else 0.0,
    }
    small = book * (of.bid_bytes + of.overhead_bytes) + rfcs * (of.rfc_bytes + of.overhead_bytes)
    read = copies * (small + rate * of.settlement_bytes)
    messages = copies * (book + rfcs + 1 / slot_s)
    memory = BASE_BYTES + _ledger_bytes(nodes, rate, of, design)
    own, more, extra = _own(role, nodes, rate, of, design)
    parts |= own
    return Cost(role, messages + more, read + extra, sum(parts.values()), memory, tuple(parts.items()))


def _streams(rate: float, per_frame: float, of: Constants) -> tuple[dict[str, float], float, float]:
    """``rate`` T/s in frames of ``per_frame``."""
    frames = rate / per_frame
    return {"streams": rate * of.token + frames * of.frame_out}, frames, rate * 8 + frames * 16


def _ledger_bytes(nodes: int, rate: float, of: Constants, design: Design) -> float:
    """What the ledger holds at a day's end: each pass with its pages of indexes, T by pass and provider (S8), and what
    is put by, by pass and provider, for as long as second opinions may come."""
    params = NetworkParams()
    sessions, passes = rate * DAY_S, users(nodes) * PASSES_A_DAY
    pairs = min(sessions, passes * providers(nodes))
    immature = min(rate * params.audit_slots * params.slot_ms / 1_000, 64 * pairs)
    pages = passes + sessions / PAGE
    tickets = sessions * of.ticket_bytes if design.keeps_tickets else 0.0
    return passes * of.pass_bytes + pages * of.page_bytes + (pairs + immature) * of.pair_bytes + tickets


def _own(role: str, nodes: int, rate: float, of: Constants, design: Design) -> tuple[dict[str, float], float, float]:
    """What only this role does: CPU seconds by part, messages, bytes.

    - A member routes R / m RFCs and gossips each, takes two filings of each, sends each settlement of its own to m − 1
      others and checks the signatures of all R; passes of N users are told to all: N × 2 a day. Its votes are three
      rounds of m a slot.
    - A provider streams R × 500 T / providers, each answer at 50 T/s, in frames of as many T as its pace lets gather.
    - A user's agent sends R / users RFCs and takes their T in the same frames, which are as dear as a provider's.
    """
    m, sellers = members(nodes), providers(nodes)
    per_frame = frame_tokens(rate * TOKENS / sellers / TOKEN_RATE) if design.paced else 1.0
    slot_s = NetworkParams().slot_ms / 1_000
    if role == "member":
        passes, votes = nodes * PASSES_A_DAY / DAY_S, 3 * m / slot_s
        parts = {
            "routing": rate / m * (of.route + of.frame),
            "filings": 2 * rate / m * 2 * of.recover,
            "settlements told and checked": rate * (of.verify + of.frame / 64),
            "passes and votes": (passes * 3 + votes) * of.recover,
        }
        return parts, 3 * rate / m + rate / 64 + passes + votes, rate * of.settlement_bytes
    if role == "provider":
        return _streams(rate * TOKENS / sellers, per_frame, of)
    if role == "user":
        return _streams(rate * TOKENS / users(nodes), per_frame, of)
    return {}, 0.0, 0.0
