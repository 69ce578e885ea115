"""What ``yellowstone explain`` asks a running node; what can't be meant is told before the node is asked."""

from node.errors import Unanswerable

_ADDRESS_DIGITS = 40
_ID_DIGITS = 64


def path_of(what: str, subject: str | None) -> str:
    """The control API's path for ``explain WHAT [SUBJECT]``. Raises :class:`Unanswerable` in a line."""
    if what == "day":
        if subject is not None and not subject.isdecimal():
            raise Unanswerable(f"{subject!r} is no day: days are numbers, and 0 is the first")
        return "/explain/day" if subject is None else f"/explain/day/{subject}"
    if what in {"allowance", "earnings"}:
        if subject is None:
            raise Unanswerable(f"whose {what}? `yellowstone explain {what} ADDRESS`")
        if not _is_hex(subject, _ADDRESS_DIGITS):
            raise Unanswerable(f"{subject!r} is no address: 0x and {_ADDRESS_DIGITS} hex digits")
        return f"/explain/{what}/{subject}"
    if subject is not None or not _is_hex(what, _ID_DIGITS):
        known = f"`day`, `allowance`, `earnings` nor an RFC id: 0x and {_ID_DIGITS} hex digits"
        raise Unanswerable(f"{what!r} is neither {known}")
    return f"/explain/rfc/{what}"


def _is_hex(text: str, digits: int) -> bool:
    bare = text.removeprefix("0x")
    return len(bare) == digits and all(digit in "0123456789abcdefABCDEF" for digit in bare)
