"""The figures of docs/objective.md, computed from the losses on one small example.

    python benchmarks/objective_figures.py                       writes four SVG files into docs/figures
    python benchmarks/objective_figures.py --output figures      writes them elsewhere

The example is a model with one factor: a user with 20 interactions in a catalog of 1000 items, 50 of which suit the
user. Item factors are fixed, so that every loss is a curve over the user's factor. RG× and RG² are those of
`rgals.numerics.dense_twin`, with alpha = 0 and no ridge; the expansions have the curvatures of
`rgals.numerics.reexpansion` with the default eta, kappa and n_hard. Nothing is random: the same bytes every time.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import NormalDist
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import NullLocator
from scipy.optimize import minimize_scalar

from rgals.data.storage import replace_file
from rgals.names import BoolArray, Float64Array
from rgals.numerics.dense_twin import DenseProblem
from rgals.numerics.loss import Loss, LossName

N_ITEMS, N_SUITABLE = 1000, 50
SUITABLE_MEAN, OTHER_MEAN, SPREAD = 0.5, -0.5, 0.2
N_OBSERVED_SUITABLE, N_OBSERVED_OTHER = 16, 4
N_EXPANSIONS = 6
N_DRAWN = 3
FACTOR_OF_PULLS = 2.0

# Okabe and Ito's colors, which color-blind readers tell apart.
INK, SOFT, RGX, RG2, EXPANDED = "#22303c", "#7d8a95", "#0072b2", "#c14d00", "#00805f"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rgals",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.0,
    "axes.edgecolor": SOFT,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}
FACTOR_LABEL = "user's factor t (score = t \N{MULTIPLICATION SIGN} item's factor)"
LOSS_LABEL = "loss per interaction"
RGX_NAME = "RG\N{MULTIPLICATION SIGN}"
QUADRATIC: tuple[LossName, LossName] = ("rgx", "rg2")


@dataclass(frozen=True, slots=True)
class Parabola:
    """A quadratic expansion of the loss per interaction around one value of the user's factor."""

    start: float
    value: float
    slope: float
    curvature: float

    @property
    def minimum(self) -> float:
        """Where it is least."""
        return self.start - self.slope / self.curvature

    def at(self, factor: Float64Array | float) -> Float64Array:
        """Give its value there."""
        step = np.asarray(factor, dtype=np.float64) - self.start
        return self.value + step * (self.slope + 0.5 * self.curvature * step)


@dataclass(frozen=True, slots=True)
class Example:
    """One user in a model with one factor.

    Parameters
    ----------
    items : float64 array of shape (n_items,)
        The item factors.
    weights : float64 array of shape (n_items,)
        Observed weight g of each item, 0 where unobserved.
    """

    items: Float64Array
    weights: Float64Array

    @property
    def is_observed(self) -> BoolArray:
        """Which items the user has interacted with."""
        return self.weights > 0

    @property
    def weight_sum(self) -> float:
        """c: the sum of the observed weights."""
        return float(self.weights.sum())

    def probabilities(self, factor: float) -> Float64Array:
        """Give the softmax distribution of the scores under the uniform prior."""
        exponentials = np.exp(factor * self.items)
        return np.asarray(exponentials / exponentials.sum())

    def observed_part(self, factor: float) -> float:
        """Give -sum g s / c, which pushes the observed scores up."""
        return -factor * float(self.weights @ self.items) / self.weight_sum

    def catalog_part(self, factor: float) -> float:
        """Give log sum_j pi_j exp(s_j), which pushes all scores down, each by its probability."""
        return float(np.log(np.mean(np.exp(factor * self.items))))

    def softmax_loss(self, factor: float) -> float:
        """Give the exact softmax loss per interaction."""
        return self.observed_part(factor) + self.catalog_part(factor)

    def quadratic_loss(self, name: LossName, factor: float, shift: float = 0.0) -> float:
        """Give RG× or RG² per interaction, from the dense twin, with ``shift`` added to every score."""
        problem = DenseProblem(self.weights[None, :], Loss(name, alpha=0.0, reg=0.0))
        item_factors = np.stack([self.items, np.ones_like(self.items)], axis=1)
        return problem.objective(np.array([[factor, shift]]), item_factors) / self.weight_sum

    def expand(self, factor: float, loss: Loss) -> Parabola:
        """Expand the softmax loss there, as ``rg-softmax`` does.

        Parameters
        ----------
        factor : float
            Where the user stands.
        loss : Loss
            Gives n_hard, eta and kappa.

        Notes
        -----
        The slope is exact, c p - g for every item. Curvatures: observed ``c p + eta g``; the ``n_hard`` others of
        the largest p ``kappa c p``; the rest ``omega pi`` with omega = c (their probability) / (their prior).
        """
        p, c = self.probabilities(factor), self.weight_sum
        others = np.flatnonzero(~self.is_observed)
        hard = others[np.argsort(-p[others], kind="stable")[: loss.n_hard]]
        is_entry = self.is_observed.copy()
        is_entry[hard] = True
        curvatures = np.full(p.size, c * p[~is_entry].sum() / np.count_nonzero(~is_entry))
        curvatures[self.is_observed] = (c * p + loss.eta * self.weights)[self.is_observed]
        curvatures[hard] = loss.kappa * c * p[hard]
        slope = float((c * p - self.weights) @ self.items)
        curvature = float(curvatures @ self.items**2)
        return Parabola(factor, self.softmax_loss(factor), slope / c, curvature / c)


@dataclass(frozen=True, slots=True)
class Numbers:
    """What the figures mark: where each loss is least, and the successive expansions."""

    exact: float
    rgx: float
    rg2: float
    expansions: tuple[Parabola, ...]

    @property
    def points(self) -> list[float]:
        """Where the user stands before the first expansion and after each."""
        return [self.expansions[0].start, *(parabola.minimum for parabola in self.expansions)]


def make_example() -> Example:
    """Make the example: normal quantiles for item factors, evenly spread interactions, no chance."""
    other = _normal_quantiles(OTHER_MEAN, N_ITEMS - N_SUITABLE)
    suitable = _normal_quantiles(SUITABLE_MEAN, N_SUITABLE)
    items = np.concatenate([other, suitable])
    weights = np.zeros(N_ITEMS)
    weights[_evenly(N_OBSERVED_OTHER, other.size)] = 1.0
    weights[other.size + _evenly(N_OBSERVED_SUITABLE, suitable.size)] = 1.0
    # At zero scores all probabilities are equal, and the hard negatives the first items: let these be any.
    order = 373 * np.arange(N_ITEMS) % N_ITEMS
    return Example(items[order], weights[order])


def _normal_quantiles(mean: float, n: int) -> Float64Array:
    normal = NormalDist(mean, SPREAD)
    return np.array([normal.inv_cdf((k + 0.5) / n) for k in range(n)])


def _evenly(n: int, n_places: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    return np.array([(2 * k + 1) * n_places // (2 * n) for k in range(n)], dtype=np.int64)


def measure(example: Example) -> Numbers:
    """Find the minima, and expand again and again from zero scores on."""
    loss = Loss("rg-softmax", alpha=0.0, reg=0.0)
    expansions = [example.expand(0.0, loss)]
    while len(expansions) < N_EXPANSIONS:
        expansions.append(example.expand(expansions[-1].minimum, loss))
    return Numbers(
        _least(example.softmax_loss),
        _least(lambda factor: example.quadratic_loss("rgx", factor)),
        _least(lambda factor: example.quadratic_loss("rg2", factor)),
        tuple(expansions),
    )


def _least(function: Callable[[float], float]) -> float:
    """Find where a convex function of the user's factor is least."""
    return float(minimize_scalar(function, bounds=(0.0, 50.0), method="bounded", options={"xatol": 1e-9}).x)


def _draw_curve(
    axes: Axes,
    function: Callable[[float], float],
    across: Float64Array,
    color: str,
    label: str,
    place: tuple[float, float],
) -> None:
    """Draw a function with its name beside it: the exact loss thick, RG× dashed."""
    width, dashes = (2.4, "-") if color == INK else (1.7, "--" if label == RGX_NAME else "-")
    values = [function(float(x)) for x in across]
    axes.plot(across, values, color=color, linewidth=width, linestyle=dashes)
    axes.text(*place, label, color=color, va="center")


def _mark(axes: Axes, x: float, y: float, color: str, text: str, offset: tuple[float, float], ha: str) -> None:
    """Put a point with its text, offset in printer's points."""
    axes.plot([x], [y], "o", color=color, markersize=5.5, zorder=5)
    axes.annotate(text, (x, y), textcoords="offset points", xytext=offset, ha=ha, va="center", color=color)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _make_panels(left: float, right: float) -> tuple[Figure, Axes, Axes]:
    """Make a figure of two panels of these relative widths."""
    engine = ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09)
    figure = Figure(figsize=(7.3, 3.6), layout=engine)
    first, second = figure.subplots(1, 2, width_ratios=[left, right])
    return figure, first, second


def draw_softmax(example: Example, numbers: Numbers) -> Figure:
    """Draw what the softmax loss pulls at each item, and its two parts along the user's factor."""
    figure, by_item, by_factor = _make_panels(1, 1.3)
    _draw_pulls(by_item, example)
    across = np.linspace(0.0, 6.0, 61)
    _draw_curve(by_factor, example.catalog_part, across, RG2, "all items: log of\nthe mean exp(score)", (6.15, 0.72))
    _draw_curve(by_factor, example.observed_part, across, RGX, "observed items:\nminus mean score", (6.15, -1.85))
    _draw_curve(by_factor, example.softmax_loss, across, INK, "their sum:\nthe loss", (6.15, -1.02))
    _mark(by_factor, numbers.exact, example.softmax_loss(numbers.exact), INK, "minimum", (0, -11), "center")
    by_factor.set(xlabel=FACTOR_LABEL, ylabel=LOSS_LABEL, xlim=(-0.3, 9.9), ylim=(-2.15, 1.1), xticks=range(7))
    by_factor.set_title("Its two parts balance", loc="left")
    return figure


def _draw_pulls(axes: Axes, example: Example) -> None:
    """Draw g - c p of the items over their scores: up for the observed ones, down for the others."""
    pulls = example.weights - example.weight_sum * example.probabilities(FACTOR_OF_PULLS)
    scores, is_observed = FACTOR_OF_PULLS * example.items, example.is_observed
    # The pull on the others is a smooth function of the score: some of them draw it.
    others = np.flatnonzero(~is_observed)[np.argsort(scores[~is_observed])]
    others = np.concatenate(
        [others[: -2 * N_SUITABLE : 30], others[-2 * N_SUITABLE : -N_SUITABLE : 5], others[-N_SUITABLE::2], others[-1:]]
    )
    axes.fill_between(scores[others], pulls[others], color=RG2, alpha=0.25, linewidth=0)
    axes.plot(scores[others], pulls[others], color=RG2)
    axes.vlines(scores[is_observed], 0, pulls[is_observed], color=RGX, linewidth=0.8)
    axes.plot(scores[is_observed], pulls[is_observed], "o", color=RGX, markersize=4)
    axes.axhline(0, color=SOFT, linewidth=0.8)
    axes.text(-2.3, 1.15, f"{np.count_nonzero(is_observed)} observed items: up", color=RGX, va="center")
    axes.text(
        -2.3, -0.3, f"{np.count_nonzero(~is_observed)} others: down,\neach by its probability", color=RG2, va="center"
    )
    axes.set(xlabel=f"score of the item, where t = {FACTOR_OF_PULLS:g}", ylabel="pull on the score", ylim=(-0.5, 1.3))
    axes.set_yticks((-0.5, 0.0, 0.5, 1.0))
    axes.set_title("What the loss wants of each score", loc="left")


def draw_rgx(example: Example, numbers: Numbers) -> Figure:
    """Draw RG× beside the exact loss: near zero scores, and up to its own minimum."""
    figure, near, far = _make_panels(1, 1.6)

    def rgx(factor: float) -> float:
        return example.quadratic_loss("rgx", factor)

    across = np.linspace(-1.0, 1.5, 31)
    _draw_curve(near, example.softmax_loss, across, INK, "exact", (0.95, -0.45))
    _draw_curve(near, rgx, across, RGX, RGX_NAME, (0.35, -0.75))
    _mark(near, 0.0, 0.0, INK, "expanded here", (7, 4), "left")
    near.set(xlabel="user's factor t", ylabel=LOSS_LABEL, xticks=(-1, 0, 1), yticks=(-1, -0.5, 0, 0.5))
    near.set_title("Near zero scores: close", loc="left")
    across = np.linspace(0.0, 11.0, 61)
    far.axhline(0, color=SOFT, linewidth=0.8)
    _draw_curve(far, example.softmax_loss, across, INK, "exact softmax loss", (2.0, -0.6))
    _draw_curve(far, rgx, across, RGX, RGX_NAME, (3.3, -2.7))
    least, reached = rgx(numbers.rgx), example.softmax_loss(numbers.rgx)
    far.vlines(numbers.rgx, least, reached, color=RGX, linewidth=1.0, linestyle=":")
    _mark(far, numbers.exact, example.softmax_loss(numbers.exact), INK, "minimum", (5, 10), "center")
    _mark(far, numbers.rgx, least, RGX, f"minimum of {RGX_NAME}: {_signed(least)}", (0, -12), "center")
    _mark(far, numbers.rgx, reached, RGX, f"exact loss there: {_signed(reached)}", (-7, 9), "right")
    far.set(xlabel=FACTOR_LABEL, ylabel=LOSS_LABEL, ylim=(-3.9, 1.6))
    far.set_title("At its own minimum: far", loc="left")
    return figure


def draw_rg2(example: Example, numbers: Numbers) -> Figure:
    """Draw RG² above RG×, along the user's factor and along a common shift of all scores."""
    figure, by_factor, by_mean = _make_panels(1.25, 1)
    least = example.quadratic_loss("rg2", numbers.rg2)
    across = np.linspace(0.0, 6.0, 41)
    lower, upper = (np.array([example.quadratic_loss(name, float(t)) for t in across]) for name in QUADRATIC)
    by_factor.fill_between(across, lower, upper, color=RG2, alpha=0.13, linewidth=0)
    _draw_curve(by_factor, lambda t: example.quadratic_loss("rgx", t), across, RGX, RGX_NAME, (3.0, -2.35))
    _draw_curve(by_factor, lambda t: example.quadratic_loss("rg2", t), across, RG2, "RG²", (4.9, 0.35))
    _draw_curve(by_factor, example.softmax_loss, across, INK, "exact", (5.25, -1.62))
    _mark(by_factor, numbers.rg2, least, RG2, "minimum of RG²", (4, -9), "left")
    _mark(by_factor, numbers.exact, example.softmax_loss(numbers.exact), INK, "minimum", (4, -9), "left")
    by_factor.set(xlabel=FACTOR_LABEL, ylabel=LOSS_LABEL)
    by_factor.set_title(f"RG² lies above {RGX_NAME}", loc="left")
    factor, mean = numbers.rg2, numbers.rg2 * float(example.items.mean())
    means = np.linspace(-1.6, 1.6, 41)
    _draw_curve(by_mean, lambda _: example.softmax_loss(factor), means, INK, "exact", (-0.3, -1.41))
    _draw_curve(by_mean, lambda m: example.quadratic_loss("rgx", factor, m - mean), means, RGX, RGX_NAME, (0.9, -1.73))
    _draw_curve(by_mean, lambda m: example.quadratic_loss("rg2", factor, m - mean), means, RG2, "RG²", (0.85, -0.65))
    _mark(by_mean, mean, least, RG2, "the same point", (7, 4), "left")
    by_mean.set(xlabel="mean score, moved by adding\nthe same to all scores", ylabel=LOSS_LABEL, ylim=(-1.85, -0.3))
    by_mean.set_title("The gap: half the squared mean", loc="left")
    return figure


def draw_reexpansion(example: Example, numbers: Numbers) -> Figure:
    """Draw successive expansions on the exact loss, and how far above its minimum each one leads."""
    figure, by_factor, by_number = _make_panels(1.5, 1)
    across = np.linspace(-0.2, 5.5, 61)
    _draw_curve(by_factor, example.softmax_loss, across, INK, "exact", (5.0, -1.5))
    for number, parabola in enumerate(numbers.expansions[:N_DRAWN], 1):
        reach = parabola.minimum - parabola.start
        part = np.linspace(parabola.start - 0.1 * reach, parabola.minimum + reach, 41)
        by_factor.plot(part, parabola.at(part), color=EXPANDED, linewidth=1.5)
        least, landed = float(parabola.at(parabola.minimum)), example.softmax_loss(parabola.minimum)
        by_factor.vlines(parabola.minimum, landed, least, color=EXPANDED, linestyle=":")
        _mark(by_factor, parabola.minimum, landed, EXPANDED, str(number), (-4, -9), "center")
    _mark(by_factor, 0.0, 0.0, EXPANDED, "0: zero scores", (8, 2), "left")
    by_factor.text(2.1, -0.45, "expanded at 0", color=EXPANDED, ha="center")
    by_factor.text(4.15, -1.13, "expanded at 1", color=EXPANDED)
    _mark(by_factor, numbers.exact, example.softmax_loss(numbers.exact), INK, "minimum", (6, -10), "left")
    by_factor.set(xlabel=FACTOR_LABEL, ylabel=LOSS_LABEL, ylim=(-1.8, 0.25))
    by_factor.set_title("Expanding again leads to the minimum", loc="left")
    _draw_gaps(by_number, example, numbers)
    return figure


def _draw_gaps(axes: Axes, example: Example, numbers: Numbers) -> None:
    """Draw how far the exact loss is above its minimum after each expansion, and at the minima of RG× and RG²."""
    least = example.softmax_loss(numbers.exact)
    gaps = [example.softmax_loss(point) - least for point in numbers.points]
    axes.semilogy(range(len(gaps)), gaps, "o-", color=EXPANDED, markersize=5)
    axes.text(4.4, gaps[4], "expanded\nagain", color=EXPANDED, va="center")
    for name, color, dashes, point in ((RGX_NAME, RGX, "--", numbers.rgx), ("RG²", RG2, "-", numbers.rg2)):
        gap = example.softmax_loss(point) - least
        axes.axhline(gap, color=color, linestyle=dashes)
        axes.text(N_EXPANSIONS, 0.85 * gap, f"minimum of {name}", color=color, ha="right", va="top")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="number of expansions", ylabel="exact loss above its minimum")
    axes.set_xticks(range(N_EXPANSIONS + 1))
    axes.set_title("How much is left", loc="left")


FIGURES: dict[str, Callable[[Example, Numbers], Figure]] = {
    "objective-1-softmax.svg": draw_softmax,
    "objective-2-rgx.svg": draw_rgx,
    "objective-3-rg2.svg": draw_rg2,
    "objective-4-reexpansion.svg": draw_reexpansion,
}


def render(figure: Figure) -> bytes:
    """Give the figure as SVG, without a date or a version, so that equal figures are equal bytes."""
    stream = BytesIO()
    figure.savefig(stream, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def print_numbers(example: Example, numbers: Numbers) -> None:
    """Print where each loss is least, and the exact loss there and after each expansion."""
    for name, factor in (("zero scores", 0.0), (RGX_NAME, numbers.rgx), ("RG²", numbers.rg2), ("exact", numbers.exact)):
        print(f"{name:<14} factor {factor:7.4f}   exact loss {example.softmax_loss(factor):+.5f}")
    for number, factor in enumerate(numbers.points[1:], 1):
        print(f"expansion {number:<4} factor {factor:7.4f}   exact loss {example.softmax_loss(factor):+.5f}")


def main() -> None:
    """Write the figures and print their numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "figures")
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    example = make_example()
    numbers = measure(example)
    print_numbers(example, numbers)
    for name, draw in FIGURES.items():
        with mpl.rc_context(STYLE):
            content = render(draw(example, numbers))
        replace_file(output / name, content)
        print(f"{output / name}  {len(content):,} bytes")


if __name__ == "__main__":
    main()
