"""What a batch does to a ledger, worked out once: a proposal is followed before the vote and when it is decided."""

from collections import OrderedDict

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
        self._known: OrderedDict[tuple[Digest, Digest], Ledger] = OrderedDict()

    def __call__(self, ledger: Ledger, header: BatchHeader, body: BatchBody) -> Ledger:
        """The ledger after a batch. Raises :class:`BatchInvalid`."""
        check_body(header, body)
        step = ledger.parent, batch_hash(header)
        following = self._known.get(step)
        if following is None:
            following = apply_batch(ledger, self._terms, header, body, verified=self.verified)
            self.note(ledger, header, following)
        return following

    def note(self, ledger: Ledger, header: BatchHeader, following: Ledger) -> None:
        """Take the caller's word that the batch of ``header``, which it made itself, turns ``ledger`` into
        ``following``."""
        self._known[ledger.parent, batch_hash(header)] = following
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


def check_body(header: BatchHeader, body: BatchBody) -> None:
    """Raise :class:`BatchInvalid` unless ``body`` is the one that ``header`` commits to.

    A header's hash stands for the whole batch only where this holds.
    """
    if body_root(body) != header.body_root:
        raise BatchInvalid("body_root", header.body_root)
