"""Pictures of runs side by side: what to look at to see what the advice has done."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from sb3_varl.pages import figure_url
from sb3_varl.report.runs import ACTIVE, HELD, Curve, RunLogs

# Colours that a colour-blind reader can tell apart (Okabe and Ito, and Tol's wine). VARL and SAC get the first two.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
GREY = "#595959"

# Points of a curve that are drawn, at most; more cannot be told apart in a picture of this size.
MAX_POINTS = 600
# Between a quantity's highest and lowest value; less is seen better without a logarithm.
MIN_LOG_RANGE = 10
# More names would take more room than the curves.
MAX_NAMES = 4
MAX_NAME_LENGTH = 44

_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "lines.linewidth": 1.6,
    "svg.hashsalt": "sb3_varl",
}


@dataclass(frozen=True)
class Panel:
    """
    One picture with all runs in it.

    :param title: What it shows
    :param explanation: How to read it, in a sentence
    :param picture: The picture as a URL
    """

    title: str
    explanation: str
    picture: str


@dataclass(frozen=True)
class _Quantity:
    """
    What a panel is about.

    :param title: Its name
    :param label: The same with its unit, for the axis
    :param explanation: How to read it
    :param of_run: Takes it from a run
    :param limits: Of the axis, if they are always the same
    :param is_log: Whether the axis is logarithmic
    :param is_cumulated: Whether it stays the same from one value to the next
    """

    title: str
    label: str
    explanation: str
    of_run: Callable[[RunLogs], pd.Series]
    limits: tuple[float, float] | None = None
    is_log: bool = False
    is_cumulated: bool = False


def draw_panels(runs: Sequence[RunLogs], names: Sequence[str]) -> list[Panel]:
    """
    Draw what there is to see of some runs. What no run has data on is left out.

    :param runs: The runs
    :param names: What they are called
    :return: The panels
    """
    panels = []
    for quantity in _quantities(runs, names):
        curves = [quantity.of_run(run) for run in runs]
        if any(len(curve) for curve in curves):
            with matplotlib.rc_context(_STYLE):
                picture = figure_url(_draw(quantity, runs, names, curves))
            panels.append(Panel(quantity.title, quantity.explanation, picture))
    return panels


def last_step(runs: Sequence[RunLogs]) -> int:
    """
    Find the end of the panels.

    :param runs: The runs
    :return: The environment steps of the longest run
    """
    return max(1, *(run.n_steps for run in runs))


def draw_key(index: int) -> str:
    """
    Draw how a run looks in the panels.

    :param index: Number of the run
    :return: A line with a marker, as a URL
    """
    figure = Figure(figsize=(0.5, 0.16))
    figure.add_artist(Line2D([0, 0.5, 1], [0.5, 0.5, 0.5], markevery=[1], **_line(index)))
    return figure_url(figure)


def _line(index: int) -> dict[str, Any]:
    place = index + index // len(COLORS)
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": DASHES[place % len(DASHES)],
        "marker": MARKERS[place % len(MARKERS)],
        "markersize": 5,
    }


def _quantities(runs: Sequence[RunLogs], names: Sequence[str]) -> list[_Quantity]:
    def share(curve: Curve | None) -> pd.Series:
        return _values(curve) * 100

    def of_logger(key: str) -> Callable[[RunLogs], pd.Series]:
        return lambda run: run.scalar(key)

    tokens = any(query.usage.tokens and not query.usage.cost for run in runs for query in run.all_queries)
    unit = "tokens" if tokens else "US dollars"
    return [
        _Quantity(
            "Success",
            "success (%)",
            "Share of the episodes that end in success: does it come earlier with advice, and does it stay after the "
            f"cutoff? {_sources([run.success for run in runs], names)}",
            lambda run: share(run.success),
            limits=(-3, 103),
        ),
        _Quantity(
            "Return",
            "return (sum of rewards)",
            "Sum of an episode's rewards, not discounted: it also tells how soon the agent succeeds. "
            f"{_sources([run.returns for run in runs], names)}",
            lambda run: _values(run.returns),
        ),
        _Quantity(
            "Success by itself",
            "success (%)",
            "Of the latest 20 training episodes in which no advice was executed: what the policy can do alone.",
            lambda run: run.scalar("advice/success_own") * 100,
            limits=(-3, 103),
        ),
        _Quantity(
            "Success of the advice",
            "success (%)",
            "Of the training episodes in which the advice that stood at a step was followed to the end.",
            lambda run: run.scalar("advice/success_all_the_way") * 100,
            limits=(-3, 103),
        ),
        _Quantity(
            "Executed advice",
            "executed advice (% of steps)",
            "Share of the steps since advice stands, also of those after the cutoff, that were roll-ins.",
            lambda run: run.scalar("advice/executed") * 100,
            limits=(-3, 103),
        ),
        _Quantity(
            "Advice that counts",
            "counting (% of shaping_coef)",
            "All until the cutoff; afterwards, with hold, as much as the agent succeeds less often than the advice.",
            _counting,
            limits=(-3, 103),
        ),
        _Quantity(
            "Open gates",
            "open gates (% of advice)",
            "Share of the advice that the policy does not follow yet; where it stays high, the advice contradicts "
            "itself, or what the critics have learnt.",
            lambda run: run.scalar("varl/gate_open") * 100,
            limits=(-3, 103),
        ),
        _Quantity(
            "Shaping loss",
            "shaping loss (nats)",
            "Negative log-likelihood of the advice where gates are open: high where the policy finds it improbable, 0 "
            "where all gates are closed.",
            of_logger("varl/shaping_loss"),
        ),
        _Quantity(
            "Entropy",
            "entropy (nats)",
            "How undecided the policy is in the advised states; a steep fall means that it explores nothing else any "
            "more.",
            of_logger("varl/entropy"),
        ),
        _Quantity(
            "Q of advised minus greedy action",
            "Q difference (return)",
            "Above 0 the critics expect more of the advice than of what the policy would do, below 0 less.",
            lambda run: (run.scalar("varl/q_advised") - run.scalar("varl/q_greedy")).dropna(),
        ),
        _Quantity(
            "Entropy coefficient",
            "entropy coefficient",
            "What a nat of entropy is worth in reward; where it climbs without end, entropy outweighs the reward.",
            of_logger("train/ent_coef"),
            is_log=True,
        ),
        _Quantity(
            "Critic loss",
            "critic loss",
            "Error of the critics on replayed transitions; a jump after the cutoff means that the policy goes where "
            "they know nothing.",
            of_logger("train/critic_loss"),
            is_log=True,
        ),
        _Quantity(
            f"Spent on advice, {unit}",
            unit,
            f"All {unit} that were spent up to a step; each rise is a query.",
            lambda run: _spent(run, tokens),
            is_cumulated=True,
        ),
    ]


def _counting(run: RunLogs) -> pd.Series:
    """Share of the shaping coefficient, in percent, of a run that held anything: until the cutoff it is not logged."""
    active, held = run.scalar(ACTIVE), run.scalar(HELD)
    return active * held.reindex(active.index).fillna(1) * 100 if len(held) else held


def _values(curve: Curve | None) -> pd.Series:
    return pd.Series(dtype=float) if curve is None else curve.values


def _sources(curves: Sequence[Curve | None], names: Sequence[str]) -> str:
    """What a point of each run's curve is the mean of."""
    named = [(curve.source, name) for curve, name in zip(curves, names, strict=True) if curve is not None]
    sources = list(dict.fromkeys(source for source, _ in named))
    if len(sources) == 1:
        return f"A point is the mean of {sources[0]}."
    parts = [f"of {source} ({', '.join(name for its, name in named if its == source)})" for source in sources]
    return f"A point is the mean {', '.join(parts)}."


def _spent(run: RunLogs, tokens: bool) -> pd.Series:
    queries = sorted(run.all_queries, key=lambda query: query.step)
    spent = [float(query.usage.tokens if tokens else query.usage.cost) for query in queries]
    if not any(spent):
        return pd.Series(dtype=float)
    total = list(itertools.accumulate(spent))
    return pd.Series([0.0, *total, total[-1]], [0, *(query.step for query in queries), run.n_steps])


def _draw(quantity: _Quantity, runs: Sequence[RunLogs], names: Sequence[str], curves: Sequence[pd.Series]) -> Figure:
    figure = Figure(figsize=(4.8, 3), layout="constrained")
    axes = figure.add_subplot()
    handles, labels = [], []
    for i, (name, curve) in enumerate(zip(names, curves, strict=True)):
        if len(curve):
            thin = curve.iloc[np.unique(np.linspace(0, len(curve) - 1, MAX_POINTS, dtype=int))]
            markevery = max(1, round(len(thin) / 10))
            drawstyle = "steps-post" if quantity.is_cumulated else "default"
            handles += axes.plot(
                thin.index, thin, drawstyle=drawstyle, markevery=(i % markevery, markevery), **_line(i)
            )
            labels.append(_legible(name) if len(runs) <= MAX_NAMES else str(i + 1))
    values = np.concatenate(curves)
    if quantity.is_log and values.min() > 0 and values.max() > MIN_LOG_RANGE * values.min():
        axes.set_yscale("log")
    drawn = [(i, run) for i, run in enumerate(runs) if len(curves[i])]
    n_rows = 0
    for i, run in drawn:
        if run.all_queries:
            # Above the curves, a row for each run, because runs are often asked about at the same steps.
            height, n_rows = 1.04 + 0.055 * n_rows, n_rows + 1
            steps = [query.step for query in run.all_queries]
            axes.plot(
                steps,
                [height] * len(steps),
                "v",
                color=COLORS[i % len(COLORS)],
                markersize=5,
                clip_on=False,
                transform=axes.get_xaxis_transform(),
            )
    last = last_step(runs)
    cutoffs = {i: run.cutoff for i, run in drawn if run.cutoff is not None and run.cutoff <= last}
    for i, cutoff in cutoffs.items():
        color = GREY if len(set(cutoffs.values())) == 1 else COLORS[i % len(COLORS)]
        axes.axvline(cutoff, color=color, linestyle="--", linewidth=1)
    if n_rows:
        handles.append(Line2D([], [], color=GREY, linestyle="", marker="v", markersize=5))
        labels.append("query")
    if cutoffs:
        handles.append(Line2D([], [], color=GREY, linestyle="--", linewidth=1))
        labels.append("cutoff")
    axes.set(xlabel="environment steps", ylabel=quantity.label, xlim=(0, 1.02 * last))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if quantity.limits is not None:
        axes.set_ylim(quantity.limits)
    legend = figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=_columns(labels),
        frameon=False,
        fontsize=9.5,
        handlelength=3,
        columnspacing=1.5,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.set_figheight(2.8 + 0.2 * -(-len(labels) // _columns(labels)))
    # The room for the ticks' labels is known only once they have been drawn.
    figure.draw_without_rendering()
    return figure


def _legible(name: str) -> str:
    """A name of at most so many characters, which matplotlib takes for one: it leaves out those with an underscore."""
    name = f" {name}" if name.startswith("_") else name
    half = MAX_NAME_LENGTH // 2
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"


def _columns(labels: Sequence[str]) -> int:
    """As many as fit, and no fewer names in the last row than it takes."""
    longest = max(len(label) for label in labels)
    n_fitting = max(1, 60 // (longest + 8))
    n_rows = -(-len(labels) // n_fitting)
    return -(-len(labels) // n_rows)
