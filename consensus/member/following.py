"""What a batch does to a ledger, worked out once: a proposal is followed before the vote and when it is decided."""

from consensus.market.batch import apply_batch, body_root
from consensus.market.errors import BatchInvalid
from consensus.market.ledger_state import Ledger
from consensus.market.settlement import VerifiedSettlements
from consensus.params import Terms
from contracts.typed_data import Digest
from gossip.messages.committee import BatchBody, BatchHeader, batch_hash

REMEMBERED = 8
"""Results kept; the oldest go first."""


class Following:
    """:func:`~consensus.market.batch.apply_batch` with a short memory, shared by all who follow one network."""

    def __init__(self, terms: Terms) -> None:
        self.verified = VerifiedSettlements(terms)
        self._terms = terms
        self._known: dict[tuple[Digest, Digest], Ledger] = {}

    def __call__(self, ledger: Ledger, header: BatchHeader, body: BatchBody) -> Ledger:
        """The ledger after a batch. Raises :class:`BatchInvalid`."""
        check_body(header, body)
        step = ledger.parent, batch_hash(header)
        if step not in self._known:
            following = apply_batch(ledger, self._terms, header, body, verified=self.verified)
            self._known[step] = following
            while len(self._known) > REMEMBERED:
                del self._known[next(iter(self._known))]
        return self._known[step]


def check_body(header: BatchHeader, body: BatchBody) -> None:
    """Raise :class:`BatchInvalid` unless ``body`` is the one that ``header`` commits to.

    A header's hash stands for the whole batch only where this holds.
    """
    if body_root(body) != header.body_root:
        raise BatchInvalid("body_root", header.body_root)
