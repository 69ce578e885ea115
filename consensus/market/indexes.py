"""Which indexes of a pass have been settled: a bit for each, in pages that are kept by session key and number.

A session counts up, so that a day of thousands of RFCs is a few pages; whoever leaves gaps pays a T for every index
that it does use, and costs a page at most. A page is a string of bits, the lowest index first, and ends with no zero
byte.
"""

from contracts.typed_data import Address

PAGE = 1_024
"""Indexes of a page: 128 bytes at most, hashed anew with each settlement."""

EMPTY = b""
"""A page of which nothing is settled."""


def page_key(session_key: Address, index: int) -> bytes:
    """Where the page that ``index`` is on is kept: the session key and the page's number as 8 bytes big-endian."""
    return session_key + (index // PAGE).to_bytes(8, "big")


def holds(page: bytes, index: int) -> bool:
    """Whether ``index``, which is on this page, has been settled."""
    at, bit = divmod(index % PAGE, 8)
    return at < len(page) and page[at] >> bit & 1 == 1


def with_index(page: bytes, index: int) -> bytes:
    """The page with ``index``, which is on it."""
    at, bit = divmod(index % PAGE, 8)
    bits = bytearray(page.ljust(at + 1, b"\0"))
    bits[at] |= 1 << bit
    return bytes(bits)
