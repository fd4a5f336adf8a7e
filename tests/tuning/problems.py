"""A search whose answers are known: trials that cost nothing."""

import math

from rgals.tuning.space import Dimension, SearchSpace
from rgals.tuning.study import Study
from rgals.tuning.trial import CurvePoint, TrialResult

SPACE = SearchSpace(
    (
        Dimension("rate", 1e-3, 1.0, log=True, default=0.03),
        Dimension("tilt", -1.0, 1.0, default=0.0),
        Dimension("depth", 1, 10, is_int=True, default=3),
        Dimension("kind", choices=("flat", "round"), default="flat"),
    )
)
IDENTITY = {"dataset": "abc", "model": "toy"}


def open_study(path, identity=IDENTITY, space=SPACE, seed=3):
    return Study.open(path, identity, space, seed)


def height(options):
    """At most 1, at rate 0.1, tilt 0, depth 7, kind round."""
    off = abs(math.log10(options["rate"] / 0.1)) * 0.3 + options["tilt"] ** 2 * 0.5 + abs(options["depth"] - 7) * 0.01
    return 1 - off - 0.05 * (options["kind"] == "flat")


def curve_of(*values, first=1):
    return tuple(CurvePoint(number, number * 0.1, value) for number, value in enumerate(values, first))


def result_of(*values, verdict=None, options=None):
    return TrialResult.of_curve(options or {}, curve_of(*values), 1.0, verdict)


def run(number, options, pruner):
    """Rise to the height in eight rounds."""
    curve = []
    for point in curve_of(*(height(options) * (1 - 0.5**k) for k in range(1, 9))):
        curve.append(point)
        verdict = pruner.should_stop(curve)
        if verdict is not None:
            break
    return TrialResult.of_curve(options, curve, 1.0, verdict)
