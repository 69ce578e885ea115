"""The picture: each attack's profit beside the honest return and the holder's share of the budget."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from testnet.economy.bounds import Outcome
from testnet.errors import OptionInvalid

COLOURS = ("#c44e52", "#4c72b0")
MILLION = 1e6


def draw(played: Mapping[str, Sequence[Outcome]], path: Path) -> None:
    """A PNG at ``path``. Raises :class:`~testnet.errors.OptionInvalid` where matplotlib is missing."""
    try:
        import matplotlib  # noqa: PLC0415  # an extra, and slow to load
        from matplotlib import pyplot as plt  # noqa: PLC0415
    except ImportError as error:
        raise OptionInvalid("plot", str(path), "matplotlib is not installed (extra: plot)") from error
    matplotlib.use("Agg")
    first = next(iter(played.values()))
    names = [one.name for one in first]
    figure, axes = plt.subplots(figsize=(10, 0.5 * len(names) + 2.2))
    height = 0.8 / len(played)
    for number, (title, outcomes) in enumerate(played.items()):
        at = [row + (number - (len(played) - 1) / 2) * height for row in range(len(names))]
        values = [one.per_mor * MILLION for one in outcomes]
        axes.barh(at, values, height, color=COLOURS[number], label=f"profit, rules of {title}")
        for y, value, one in zip(at, values, outcomes, strict=True):
            note = f" {value:,.0f}" + (f"  ({', '.join(one.broken)})" if one.broken else "")
            axes.annotate(note, (max(0.0, value), y), va="center", fontsize=8)
    axes.axvline(first[0].honest_per_mor * MILLION, color="#55a868", linewidth=1.5, label="honest holder who serves")
    axes.axvline(
        first[0].share_per_mor * MILLION, color="black", linestyle="--", linewidth=1.5, label="share of the budget"
    )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("symlog", linthresh=100)
    axes.set_xlim(right=max(one.per_mor for of in played.values() for one in of) * MILLION * 8)
    axes.set_xlabel("profit, MOR per million MOR held and day (linear to 100, then logarithmic)")
    axes.set_title("What an attacker's MOR earns")
    axes.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
