"""Errors of the market.

::

    MarketError
    ├── AccessInvalid       the opening numbers of a day make no AccessRate
    ├── BidRefused          a record, bid or model proof that the book does not take; carries a stable code
    ├── PassRefused         an access pass that is not granted; carries a stable code
    ├── RfcRefused          an RFC that is not served; carries a stable code
    ├── SettlementInvalid   a session that can't be settled, or a filing that belongs to none; carries a stable word
    ├── OpinionInvalid      a second opinion that counts for nothing; carries a stable word
    ├── ListingInvalid      an order that changes no list of models; carries a stable word
    ├── BatchInvalid        a batch that does not follow from the ledger
    ├── ProofInvalid        a credit that the certified header does not hold; carries a stable word
    ├── MatchInvalid        a match that the public data does not lead to
    └── BeaconInvalid       a secret that does not lead to its commitment

The codes of ``PassRefused`` and ``RfcRefused`` are those of :class:`gossip.messages.market.Refusal`.
"""


def show(value: object) -> str:
    """``value`` as people read it: bytes in hex."""
    return f"0x{value.hex()}" if isinstance(value, bytes) else str(value)


class MarketError(Exception):
    """Root of this folder's errors."""


class AccessInvalid(MarketError):
    """``name`` is the number at fault, ``value`` what it was."""

    def __init__(self, name: str, value: int) -> None:
        self.name = name
        self.value = value
        super().__init__(f"{name} must be above 0, it is {value}")


class BidRefused(MarketError):
    """The book does not take a message.

    ``code`` is one of: unit_unsupported, price_zero, expired, too_many, book_full.
    """

    def __init__(self, code: str, value: object) -> None:
        self.code = code
        self.value = value
        super().__init__(f"{code}: {show(value)}")


class PassRefused(MarketError):
    """No access pass: ``code`` is a stable word, ``detail`` is for people."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{code}: {detail}")


class RfcRefused(MarketError):
    """An RFC isn't served: ``code`` is a stable word, ``detail`` is for people.

    ``allowance_left`` is what the pass still holds, in T; the refusal has not touched it (S36).
    """

    def __init__(self, code: str, detail: str, allowance_left: int = 0) -> None:
        self.code = code
        self.detail = detail
        self.allowance_left = allowance_left
        super().__init__(f"{code}: {detail}")


class SettlementInvalid(MarketError):
    """A session can't be settled: ``reason`` is a stable word, ``value`` what offends.

    ``retry`` says that the same settlement may be valid in a later batch.
    """

    def __init__(self, reason: str, value: object, *, retry: bool = False) -> None:
        self.reason = reason
        self.value = value
        self.retry = retry
        super().__init__(f"{reason}: {show(value)}")


class OpinionInvalid(MarketError):
    """A second opinion is not taken: ``reason`` is a stable word, ``value`` what offends.

    ``reason`` is one of: signature, not_picked, not_drawn, another_transcript, tokens, said_already, decided,
    not_its_turn. ``retry`` says that it may be taken in a later batch.
    """

    def __init__(self, reason: str, value: object, *, retry: bool = False) -> None:
        self.reason = reason
        self.value = value
        self.retry = retry
        super().__init__(f"{reason}: {show(value)}")


class ListingInvalid(MarketError):
    """An order changes no list of models: ``reason`` is a stable word, ``value`` what offends.

    ``reason`` is one of: no_list, order_from_future, order_too_old, order_overtaken, nothing_changes, list_full,
    too_many_orders, signatures. ``retry`` says that it may be taken in a later batch.
    """

    def __init__(self, reason: str, value: object, *, retry: bool = False) -> None:
        self.reason = reason
        self.value = value
        self.retry = retry
        super().__init__(f"{reason}: {show(value)}")


class BatchInvalid(MarketError):
    """A batch does not follow from the ledger: ``reason`` is a stable word, ``value`` what offends."""

    def __init__(self, reason: str, value: object) -> None:
        self.reason = reason
        self.value = value
        super().__init__(f"{reason}: {show(value)}")


class ProofInvalid(MarketError):
    """A certified header does not hold a credit: ``reason`` is a stable word, ``value`` what offends."""

    def __init__(self, reason: str, value: object, detail: str) -> None:
        self.reason = reason
        self.value = value
        super().__init__(f"{reason}: {show(value)} {detail}")


class MatchInvalid(MarketError):
    """A match does not follow from the public data: ``reason`` is a stable word, ``value`` what offends."""

    def __init__(self, reason: str, value: object) -> None:
        self.reason = reason
        self.value = value
        super().__init__(f"{reason}: {show(value)}")


class BeaconInvalid(MarketError):
    """``secret`` is not the one that ``slot_in_day`` was committed to."""

    def __init__(self, slot_in_day: int, secret: bytes) -> None:
        self.slot_in_day = slot_in_day
        self.secret = secret
        super().__init__(f"secret {show(secret)} of slot {slot_in_day} of the day does not lead to the commitment")
