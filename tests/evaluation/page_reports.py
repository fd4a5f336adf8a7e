"""Reports made up for the page: eight models with everything, and the awkward ones."""

import math
from typing import Any

import numpy as np

from rgals.evaluation.report import Report

METRICS = ("ndcg", "recall", "precision", "map", "mrr", "hit_rate")
OF_ALL_LISTS = ("coverage", "gini", "popularity")
CUTOFFS = (10, 20, 100)

# name, family, NDCG@20, seconds of one round, rounds
MODELS = (
    ("rgx-weighted", "rg", 0.1388, 0.075, 6),
    ("rgx", "rg", 0.1341, 0.074, 6),
    ("rg2", "rg", 0.1310, 0.071, 6),
    ("softmax", "softmax", 0.1297, 4.1, 40),
    ("softmax-cosine", "softmax", 0.1402, 4.3, 60),
    ("ials", "other", 0.1284, 0.16, 12),
    ("bpr", "other", 0.1176, 0.35, 80),
    ("popularity", "trivial", 0.0317, 0.004, 1),
)
USER_LABELS = (
    ("4\N{EN DASH}9", 4, 9),
    ("10\N{EN DASH}13", 10, 13),
    ("14\N{EN DASH}20", 14, 20),
    ("21\N{EN DASH}37", 21, 37),
    ("38\N{EN DASH}811", 38, 811),
)
ITEM_LABELS = (
    ("1\N{EN DASH}9", 1, 9),
    ("10\N{EN DASH}20", 10, 20),
    ("21\N{EN DASH}47", 21, 47),
    ("48\N{EN DASH}130", 48, 130),
    ("131\N{EN DASH}1,415", 131, 1415),
)


def full_report(**changes: Any) -> Report:
    """Give a comparison of eight models with every section; changes replace top-level fields."""
    return Report.model_validate({**report_document(), **changes})


def report_document(n_models: int = len(MODELS)) -> dict[str, Any]:
    """Give the same as a document, with so many models."""
    random = np.random.default_rng(5)
    chosen = [MODELS[position] if position < len(MODELS) else _further(position) for position in range(n_models)]
    sections = [model_document(*model, random) for model in chosen]
    return {
        "kind": "comparison",
        "created_at": "2026-11-03T09:14:22+00:00",
        "rgals_version": "0.1.0",
        "metric": "ndcg@20",
        "dataset": {
            "fingerprint": "9f2c4be07a5d16c38e41b0fa27d95c6412ab7e90c3d85f6a1b24e7708c9d3f51",
            "n_users": 29858, "n_items": 40981, "n_train": 810128, "n_held_out": 217242,
            "split": {"kind": "given", "validation_fraction": 0.2, "seed": 1},
        },
        "protocol": protocol_document(),
        "models": sections,
        "comparisons": [comparison_document(chosen[0], other, random) for other in chosen[1:]],
        "left_out": [
            {"name": "ease", "reason": "needs 6.7 GB for 40,981 items, 5.1 GB are free; choose a smaller catalog"},
        ],
        "sample_users": [user_document(number, [model[0] for model in chosen], random) for number in range(10)],
        "titles": {f"i{item}": f"Cafe number {item}, Stockholm" for item in range(0, 40000, 3)},
        "provenance": provenance_document(),
    }  # fmt: skip


def _further(position: int) -> tuple[str, str, float, float, int]:
    family = ("rg", "softmax", "other", "trivial")[position % 4]
    return f"further-{family}-{position}", family, 0.11 + 0.002 * position, 0.05 * position, 3 * position


def protocol_document() -> dict[str, Any]:
    return {
        "part": "test", "generalization": "weak", "cutoffs": list(CUTOFFS), "gains": "binary", "seen_parts": ["train"],
        "cold_users": "popular", "n_users_evaluated": 29858, "n_users_without_held_out": 12,
        "n_users_without_history": 3, "n_held_out_seen": 7,
        "bootstrap": {"n_resamples": 1000, "seed": 0, "level": 0.95},
    }  # fmt: skip


def model_document(
    name: str, family: str, ndcg: float, round_s: float, n_rounds: int, random: np.random.Generator
) -> dict[str, Any]:
    curve = curve_document(family, ndcg, round_s, n_rounds, random)
    best = max(point["ndcg"] for point in curve)
    return {
        "name": name,
        "family": family,
        "train_s": round_s * n_rounds * 1.2,
        "evaluate_s": 4.2,
        "seconds_to_99": next(point["train_s"] for point in curve if point["ndcg"] >= 0.99 * best),
        "n_rounds": n_rounds,
        "n_users_unranked": 4 if name == "bpr" else 0,
        "n_items_unranked": 0,
        "options": {"n_factors": 64, "alpha": 0.03303, "reg": 0.5019, "nu": 0.3964, "seed": 0, "weights": None},
        "notes": ["results differ by the number of threads: the library draws by thread"] if name == "bpr" else [],
        "metrics": metrics_document(ndcg),
        "curve": curve,
        "tuning": None if family == "trivial" else tuning_document(best, n_rounds, random),
        "user_buckets": [
            {
                "label": label, "low": low, "high": high, "n_users": 5900 + 11 * place,
                "metrics": {"ndcg@20": ndcg * (0.8 + 0.1 * place), "recall@20": ndcg * (1.5 - 0.15 * place)},
            }
            for place, (label, low, high) in enumerate(USER_LABELS)
        ],
        "item_buckets": item_buckets_document(name, ndcg),
    }  # fmt: skip


def item_buckets_document(name: str, ndcg: float) -> list[dict[str, Any]]:
    shares = (0.0, 0.0, 0.0, 0.0, 1.0) if name == "popularity" else (0.05, 0.1, 0.17, 0.26, 0.42)
    return [
        {
            "label": label, "low": low, "high": high, "n_items": (29000, 7000, 3200, 1300, 481)[place],
            "n_held_out": (51000, 44000, 42000, 41000, 39242)[place],
            "n_recommended": int(597160 * shares[place]), "share": shares[place],
            "recall": ndcg * (0.3 + 0.35 * place),
        }
        for place, (label, low, high) in enumerate(ITEM_LABELS)
    ]  # fmt: skip


def curve_document(
    family: str, ndcg: float, round_s: float, n_rounds: int, random: np.random.Generator
) -> list[dict[str, Any]]:
    level, rate = 0.85 * ndcg, 4.0 / n_rounds
    points = []
    for number in range(1, n_rounds + 1):
        reached = level * (1 - math.exp(-1.2 - rate * number)) * (1 + 0.002 * random.normal())
        is_rg = family == "rg"
        points.append({
            "round": number, "train_s": round_s * number, "ndcg": reached,
            "objective": 9.1e5 * (1 + math.exp(-rate * number)) if family != "trivial" else None,
            "softmax": 8.2 + 2 * math.exp(-0.8 * number) if is_rg else None,
            "surrogate": 8.7 + 2.6 * math.exp(-0.8 * number) if is_rg else None,
        })  # fmt: skip
    return points


def tuning_document(best: float, n_rounds: int, random: np.random.Generator) -> dict[str, Any]:
    trials = []
    for number in range(20):
        state = "failed" if number == 7 else "pruned" if number % 3 == 2 else "complete"
        value = None if state == "failed" else best * (1 - 0.3 * float(random.random()) / (1 + 0.3 * number))
        trials.append({
            "number": number, "state": state, "ndcg": best if number == 16 else value, "best_round": n_rounds,
            "seconds": 3.1, "options": {"alpha": 0.03303, "reg": 0.5019, "nu": 0.3964},
        })  # fmt: skip
    return {
        "budget_trials": 20, "budget_s": None, "n_trials": 20, "n_pruned": 6, "n_failed": 1, "tune_s": 62.4,
        "best_trial": 16, "best_ndcg": best, "best_round": n_rounds,
        "space": {
            "alpha": {"low": 0.001, "high": 1.0, "log": True, "default": 0.03},
            "reg": {"low": 0.01, "high": 3.0, "log": True, "default": 0.1},
            "nu": {"low": 0.0, "high": 1.2, "default": 1.0},
            "decay": {"choices": ["constant", "cosine"], "default": "constant"},
        },
        "importance": {"alpha": 0.22, "reg": 0.61, "nu": 0.14, "decay": 0.03},
        "trials": trials,
    }  # fmt: skip


def metrics_document(ndcg: float) -> dict[str, Any]:
    found = {}
    for cutoff in CUTOFFS:
        for position, metric in enumerate(METRICS):
            mean = ndcg if (metric, cutoff) == ("ndcg", 20) else ndcg * (0.7 + 0.2 * position) * (cutoff / 20) ** 0.3
            found[f"{metric}@{cutoff}"] = measurement(mean, 0.0019)
        for metric, value in zip(OF_ALL_LISTS, (0.31, 0.83, 214.7), strict=True):
            found[f"{metric}@{cutoff}"] = measurement(value, None)
    return found


def measurement(mean: float | None, half: float | None) -> dict[str, Any]:
    ends = (None, None) if half is None or mean is None else (mean - half, mean + 1.1 * half)
    return {"mean": mean, "ci_low": ends[0], "ci_high": ends[1], "n_users": 29858}


def difference(mean: float, half: float = 0.0012, p: float | None = 0.0004) -> dict[str, Any]:
    better = 6000 if mean > 0 else 5100
    return {
        "mean": mean, "ci_low": mean - half, "ci_high": mean + half, "n_better": better, "n_worse": 11100 - better,
        "p_bootstrap": p, "p_wilcoxon": p, "p_holm": None if p is None else min(1.0, 7 * p),
    }  # fmt: skip


def comparison_document(first: tuple[Any, ...], other: tuple[Any, ...], random: np.random.Generator) -> dict[str, Any]:
    mean = first[2] - other[2]
    is_clear = abs(mean) > 0.0012
    return {
        "model": first[0],
        "other": other[0],
        "metrics": {
            f"{metric}@{cutoff}": difference(mean, p=0.00001 if is_clear else 0.31)
            for cutoff in CUTOFFS for metric in METRICS
        },
        "user_buckets": [
            {
                "label": label, "n_users": 5900, "n_better": 900 + int(400 * random.random()),
                "n_worse": 800 + int(400 * random.random()), "mean": mean * (0.5 + place / 4),
            }
            for place, (label, _, _) in enumerate(USER_LABELS)
        ],
        "item_buckets": [
            {
                "label": label, "n_better": int(2000 * random.random()), "n_worse": int(1800 * random.random()),
                "mean": mean * (1.5 - place / 2),
            }
            for place, (label, _, _) in enumerate(ITEM_LABELS)
        ],
    }  # fmt: skip


def user_document(number: int, names: list[str], random: np.random.Generator) -> dict[str, Any]:
    held_out = [f"i{item}" for item in random.integers(0, 40000, 2 + 2 * number)]
    lists = {}
    for name in names:
        items = [f"i{item}" for item in random.integers(0, 40000, 20)]
        for place in random.integers(0, 20, 1 + number // 3):
            items[place] = held_out[place % len(held_out)]
        lists[name] = [{"item_id": item, "is_hit": item in held_out} for item in items]
    n_seen = 4 + 9 * number * number
    return {
        "user_id": f"user-{1000 + 37 * number}", "n_seen": n_seen,
        "seen": [f"i{item}" for item in random.integers(0, 40000, min(20, n_seen))],
        "held_out": held_out, "lists": lists,
    }  # fmt: skip


def provenance_document() -> dict[str, Any]:
    return {
        "dataset": "data/gowalla-validation",
        "fingerprint": "9f2c4be07a5d16c38e41b0fa27d95c6412ab7e90c3d85f6a1b24e7708c9d3f51",
        "command": "rgals compare data/gowalla-validation --models rgx-weighted,rgx,rg2,softmax,softmax-cosine,ials,"
        "bpr,ease,popularity --factors 64 --budget 20 --output reports/gowalla-64 --executor processes --workers 2",
        "machine": {"cpu": "AMD EPYC 9R14", "n_cpus": 2, "memory_bytes": 25769803776, "os": "Linux 6.1"},
        "versions": {"python": "3.11.7", "rgals": "0.1.0", "numpy": "2.4.6", "numba": "0.68.1", "scipy": "1.17.0"},
        "started_at": "2026-11-03T07:41:09+00:00",
        "seconds": 5581.4,
        "executor": "processes, 2 workers with 1 CPU each",
    }


HOSTILE = "<script>document.title='owned'</script>\"'&{{ 7 * 7 }}"


def twelve_models() -> Report:
    """Give a comparison of twelve models, some with names as long as a line and in other scripts."""
    document = report_document(12)
    labels = {
        "rgx": "RG\N{MULTIPLICATION SIGN} with the weights of the users' and items' degrees, 256 factors",
        "further-other-10": "\u77e9\u9663\u5206\u89e3 with a name in two scripts",
        "further-trivial-11": "an_unbroken_name_without_any_place_to_break_it_that_goes_on_and_on_for_long",
    }
    for model in document["models"]:
        model["label"] = labels.get(model["name"], model["name"])
    with_a_start(document["models"][8], 6)
    return Report.model_validate(document)


def with_a_start(model: dict[str, Any], n_rounds: int) -> None:
    """Let a model begin with rounds of another loss, whose values are of another size."""
    model["n_start_rounds"] = n_rounds
    for point in model["curve"][:n_rounds]:
        point["objective"] *= 40


def bare_evaluation(n_models: int = 1) -> Report:
    """Give an evaluation with nothing but means: no curve, no interval, no provenance."""
    document = report_document(n_models)
    document.update(kind="evaluation", created_at=None, provenance=None, left_out=[], sample_users=[], titles={})
    document["protocol"]["bootstrap"]["n_resamples"] = 0
    for model in document["models"]:
        model.update(curve=[], tuning=None, seconds_to_99=None, n_rounds=None, train_s=None, family="other")
        model.update(user_buckets=[], item_buckets=[], notes=[])
        for measured in model["metrics"].values():
            measured.update(ci_low=None, ci_high=None)
    for comparison in document["comparisons"]:
        comparison.update(user_buckets=[], item_buckets=[])
        for one in comparison["metrics"].values():
            one.update(ci_low=None, ci_high=None, p_bootstrap=None, p_wilcoxon=None, p_holm=None)
    return Report.model_validate(document)


def undefined_numbers() -> Report:
    """Give a comparison in which every number that may be null is null."""
    return Report.model_validate(_without_numbers(report_document(3)))


def _without_numbers(value: Any, key: str = "") -> Any:
    nullable = {
        "mean", "ci_low", "ci_high", "train_s", "evaluate_s", "seconds_to_99", "n_rounds", "objective", "softmax",
        "surrogate", "ndcg", "tune_s", "best_trial", "best_ndcg", "best_round", "importance", "recall", "share",
        "p_bootstrap", "p_wilcoxon", "p_holm", "seconds", "memory_bytes", "low", "high",
    }  # fmt: skip
    if isinstance(value, dict):
        is_point, is_bucket = "round" in value, "n_users" in value or "n_items" in value
        kept = {"train_s"} if is_point else {"low", "high"} if is_bucket else set()
        return {
            name: None
            if (name in nullable - kept and not isinstance(part, dict))
            or (key == "metrics" and isinstance(part, float))
            else _without_numbers(part, name)
            for name, part in value.items()
        }
    if isinstance(value, list):
        return [_without_numbers(part, key) for part in value]
    return value


def hostile_report() -> Report:
    """Give a comparison in which every text that a user can choose is markup."""
    document = report_document(2)
    renamed = {document["models"][0]["name"]: HOSTILE, document["models"][1]["name"]: f"{HOSTILE} 2"}
    for model in document["models"]:
        with_a_start(model, 2)
        model.update(name=renamed[model["name"]], label=HOSTILE, notes=[HOSTILE], options={HOSTILE: HOSTILE})
        model["tuning"].update(space={HOSTILE: {"choices": [HOSTILE], "default": HOSTILE}}, importance={HOSTILE: 1.0})
        model["tuning"]["trials"][16]["options"] = {HOSTILE: HOSTILE}
        for bucket in (*model["user_buckets"], *model["item_buckets"]):
            bucket["label"] = HOSTILE
    for comparison in document["comparisons"]:
        comparison.update(model=renamed[comparison["model"]], other=renamed[comparison["other"]])
        for bucket in (*comparison["user_buckets"], *comparison["item_buckets"]):
            bucket["label"] = HOSTILE
    for user in document["sample_users"]:
        user.update(user_id=HOSTILE, lists={renamed[name]: items for name, items in user["lists"].items()})
        user["seen"] = [HOSTILE, *user["seen"]]
    document.update(left_out=[{"name": HOSTILE, "reason": HOSTILE}], rgals_version=HOSTILE, created_at=HOSTILE)
    document["titles"] = dict.fromkeys(document["titles"], HOSTILE)
    document["provenance"].update(command=HOSTILE, dataset=HOSTILE, executor=HOSTILE, versions={HOSTILE: HOSTILE})
    document["dataset"]["split"] = {HOSTILE: HOSTILE}
    return Report.model_validate(document)


REPORTS = {
    "full": full_report,
    "twelve": twelve_models,
    "bare": bare_evaluation,
    "bare-two": lambda: bare_evaluation(2),
    "undefined": undefined_numbers,
    "hostile": hostile_report,
}
