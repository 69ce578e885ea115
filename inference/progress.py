"""How long work tells how far it is: hashing, fetching, loading. Types only; who shows it is the caller's choice."""

from collections.abc import Callable

Report = Callable[[str, int, int], None]
"""Told what is being done, bytes done, and bytes in all (0: not known). Called often, and from any thread."""


def silent(_what: str, _done: int, _total: int) -> None:
    """A :data:`Report` for whoever does not want to know."""
