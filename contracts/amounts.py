"""Amounts as people read them. Never an input: whoever computes has integers of wei."""

_WEI = 10**18
_PLACES = 4


def show_mor(wei: int) -> str:
    """``3,456.0000 MOR``: four decimals, the rest cut off towards zero; dust that would vanish is told in wei."""
    sign = "-" if wei < 0 else ""
    whole, rest = divmod(abs(wei), _WEI)
    if whole == 0 and 0 < rest < 10 ** (18 - _PLACES):
        return f"{wei:,} wei"
    return f"{sign}{whole:,}.{rest // 10 ** (18 - _PLACES):0{_PLACES}d} MOR"


def show_exact(wei: int) -> str:
    """:func:`show_mor`, and to the wei: ``3,456.0000 MOR (3456000000000000000000 wei)``."""
    shown = show_mor(wei)
    return shown if shown.endswith("wei") else f"{shown} ({wei} wei)"
