"""A forecast as a picture: pool, budget and payouts, demand, AccessRate and price over the days."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from consensus.market.forecast import ForecastDay
from node.errors import ExtraMissing

WEI = 10**18
BLUE, ORANGE, GREEN, GREY, RED = "#2a6f97", "#e07a1f", "#3a8f5c", "#8a8f98", "#b23a48"


def plot(path: Path, found: Sequence[ForecastDay], title: str) -> None:
    """Draw to a PNG. Raises :class:`~node.errors.ExtraMissing` where matplotlib isn't installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  # an extra
        from matplotlib.figure import Figure  # noqa: PLC0415  # as above
    except ImportError as error:
        raise ExtraMissing("plot", "matplotlib") from error
    figure = Figure(figsize=(11, 12.5), layout="constrained")
    FigureCanvasAgg(figure)
    pool, flow, tokens, rate = figure.subplots(4, 1, sharex=True, height_ratios=(1, 1.2, 1, 1))
    figure.suptitle("Compute pool, budget, payouts and AccessRate", fontsize=14, fontweight="bold")
    pool.set_title(title, fontsize=9, color="#444444")
    days = [one.day for one in found]

    def line(axes: Any, value: Callable[[ForecastDay], float], label: str, color: str, **style: Any) -> None:
        axes.plot(days, [value(one) for one in found], label=label, color=color, linewidth=1.8, **style)

    line(pool, lambda one: one.pool_wei / WEI / 1e3, "unused compute pool (S23)", BLUE)
    line(pool, lambda one: one.reserve_wei / WEI / 1e3, "bootstrap reserve left (S24)", ORANGE)
    line(pool, lambda one: one.owed_wei / WEI / 1e3, "credited, not yet claimed", GREY, alpha=0.8)
    _finish(pool, "thousand MOR")
    line(flow, lambda one: one.emission_wei / WEI, "compute emission (S7)", GREY, linestyle="--")
    line(flow, lambda one: one.budget_wei / WEI, "budget (S37)", BLUE)
    line(
        flow,
        lambda one: (one.credited_wei + one.bootstrap_wei) / WEI,
        "credited to providers, bootstrap included",
        GREEN,
    )
    line(flow, lambda one: one.bootstrap_wei / WEI, "of it bootstrap (S24)", ORANGE)
    _finish(flow, "MOR a day")
    line(tokens, lambda one: one.asked_t / 1e9, "asked for", RED, linestyle=":")
    line(tokens, lambda one: one.max_t / 1e9, "MaxT (S38)", BLUE)
    line(tokens, lambda one: one.served_t / 1e9, "served", GREEN)
    _finish(tokens, "billion T a day")
    line(rate, lambda one: one.access_rate, "AccessRate (S40)", BLUE)
    _finish(rate, "T per MOR a day")
    rate.set_xlabel("day since genesis")
    price = rate.twinx()
    line(price, lambda one: one.reference_price_wei / 1e9, "reference price (right)", ORANGE, linestyle="--")
    price.set_ylabel("gwei a T", color=ORANGE)
    price.set_ylim(bottom=0)
    price.spines[["top", "left"]].set_visible(False)
    handles = [*rate.get_lines(), *price.get_lines()]
    rate.legend(handles, [str(one.get_label()) for one in handles], frameon=False, fontsize=9, ncols=2)
    figure.savefig(path, dpi=130)


def _finish(axes: Any, label: str) -> None:
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * 1.18)
    axes.legend(frameon=False, fontsize=9, ncols=4, loc="upper left")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
