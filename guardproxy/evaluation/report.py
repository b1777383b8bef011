"""Measures of scored rows: overall, by side and by category, and their cost; plain dictionaries for JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardproxy.evaluation.datasets import LabelledRow
from guardproxy.evaluation.metrics import Measured, Rate, measure, rate_of
from guardproxy.evaluation.scoring import Score, ScoredRows
from guardproxy.policy import Policy, decide
from guardproxy.replay import stops
from guardproxy.types import Decision, Side

Pair = tuple[LabelledRow, Score]
Report = dict[str, Any]
Arrays = tuple[NDArray[np.float64], NDArray[np.bool_]]

SIDES: tuple[Side, ...] = ("user", "assistant")


def report(scored: ScoredRows, policy: Policy, threshold: float = 0.5) -> Report:
    """All measures of a guard, over all rows that have a score.

    `overall`: P(unsafe) against the rows' overall label. `categories`: for each category with a label and a score,
    `one_vs_all` (against every row known not to be of it) and `one_vs_benign` (only against rows that are safe as a
    whole), as in arXiv:2312.06674. `policy`: the share of `unsafe` and of `benign` rows that the policy rewrites or
    blocks. `sides` holds the same for each side, `datasets` for each of several files, `cost` the time and tokens per
    row.
    """
    pairs = pairs_of(scored)
    out = _parts(pairs, scored.rows, policy, threshold)
    names = list(dict.fromkeys(row.dataset for row in scored.rows))
    if len(names) > 1:
        out["datasets"] = {
            name: _parts(
                [pair for pair in pairs if pair[0].dataset == name],
                [row for row in scored.rows if row.dataset == name],
                policy,
                threshold,
            )
            for name in names
        }
    out["cost"] = cost(scored)
    out |= {"rows": len(scored.rows), "scored": len(pairs), "failed": len(scored.failures), "threshold": threshold}
    return out


def mistakes(scored: ScoredRows, policy: Policy) -> list[Report]:
    """The benign rows that the policy rewrites or blocks, and the unsafe rows that it does not, in the rows' order.

    `categories` are those that reached a threshold, `text` is the judged text.
    """
    out: list[Report] = []
    for row, score in pairs_of(scored):
        decision = _decision((row, score), policy)
        if row.unsafe is not None and row.unsafe is not stops(decision):
            out.append(
                {
                    "dataset": row.dataset,
                    "id": row.id,
                    "unsafe": row.unsafe,
                    "probability": score.unsafe,
                    "action": decision.action,
                    "categories": list(decision.categories),
                    "text": row.check.conversation.messages[-1].text,
                }
            )
    return out


def pairs_of(scored: ScoredRows) -> list[Pair]:
    """The rows that have a score, each with its score."""
    return [(row, score) for row, score in zip(scored.rows, scored.scores, strict=True) if score is not None]


def overall(pairs: Sequence[Pair]) -> Arrays:
    """P(unsafe) and label of every row whose overall label is known."""
    return _arrays([(score.unsafe, bool(row.unsafe)) for row, score in with_label(pairs)])


def with_label(pairs: Sequence[Pair]) -> list[Pair]:
    """The rows whose overall label is known, in the order of `overall`."""
    return [pair for pair in pairs if pair[0].unsafe is not None]


def weights_of(pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """The weight of each row."""
    return np.array([row.weight for row, _ in pairs], dtype=np.float64)


def one_vs_all(pairs: Sequence[Pair], category: str) -> Arrays:
    """Probability and label of every row with a known label and a score of the category."""
    labelled = with_category(pairs, category)
    return _arrays([(score.categories[category], row.labels[category]) for row, score in labelled])


def one_vs_benign(pairs: Sequence[Pair], category: str) -> Arrays:
    """As one_vs_all, but the negatives are only rows that are known to be safe as a whole."""
    return one_vs_all(of_category_or_benign(pairs, category), category)


def of_category_or_benign(pairs: Sequence[Pair], category: str) -> list[Pair]:
    """The rows that are known to be of the category or to be safe as a whole."""
    return [(row, score) for row, score in pairs if row.labels.get(category) or row.unsafe is False]


def with_category(pairs: Sequence[Pair], category: str) -> list[Pair]:
    """The rows with a known label and a score of the category, in the order of `one_vs_all`."""
    return [(row, score) for row, score in pairs if category in row.labels and category in score.categories]


def categories_of(pairs: Sequence[Pair]) -> list[str]:
    """The categories with both a label and a probability in any row, in order of appearance."""
    labelled = dict.fromkeys(category for row, _ in pairs for category in row.labels)
    scored = {category for _, score in pairs for category in score.categories}
    return [category for category in labelled if category in scored]


def cost(scored: ScoredRows) -> Report:
    """Time and tokens per row; a score from an earlier run counts with the cost of that run."""
    scores = [score for score in scored.scores if score is not None]
    if not scores:
        return {"judged_now": scored.judged, "seconds_now": scored.seconds}
    wall = np.array([score.wall_s for score in scores])
    return {
        "judged_now": scored.judged,
        "seconds_now": scored.seconds,
        "wall_ms_p50": float(np.quantile(wall, 0.5) * 1e3),
        "wall_ms_p95": float(np.quantile(wall, 0.95) * 1e3),
        "compute_ms": float(np.mean([score.compute_s for score in scores]) * 1e3),
        "tokens_computed": float(np.mean([score.tokens_computed for score in scores])),
        "tokens_reused": float(np.mean([score.tokens_reused for score in scores])),
        "windows": float(np.mean([score.windows for score in scores])),
    }


def _parts(pairs: Sequence[Pair], rows: Sequence[LabelledRow], policy: Policy, threshold: float) -> Report:
    """The measures of all pairs, and under `sides` of each side that has `rows`, even if none of them has a score."""
    out = _part(pairs, policy, threshold)
    present = {row.check.side for row in rows}
    by_side = {side: [pair for pair in pairs if pair[0].check.side == side] for side in SIDES if side in present}
    single = len(by_side) == 1
    out["sides"] = {side: dict(out) if single else _part(part, policy, threshold) for side, part in by_side.items()}
    return out


def _part(pairs: Sequence[Pair], policy: Policy, threshold: float) -> Report:
    categories: Report = {}
    for category in categories_of(pairs):
        benign = of_category_or_benign(pairs, category)
        categories[category] = {
            "one_vs_all": _measured(one_vs_all(pairs, category), with_category(pairs, category), threshold),
            "one_vs_benign": _measured(one_vs_all(benign, category), with_category(benign, category), threshold),
        }
    return {
        "overall": _measured(overall(pairs), with_label(pairs), threshold),
        "categories": categories,
        "policy": _policy_effect(pairs, policy),
    }


def _policy_effect(pairs: Sequence[Pair], policy: Policy) -> Report:
    """How many unsafe and benign rows the policy rewrites or blocks."""
    out: Report = {}
    for name, label in (("unsafe", True), ("benign", False)):
        rows = [pair for pair in pairs if pair[0].unsafe is label]
        acted = stopped(rows, policy)
        if rows:
            out[name] = {"n": acted.n, "acted": acted.hits, "rate": acted.value, "ci": list(acted.interval)}
    return out


def stopped(pairs: Sequence[Pair], policy: Policy) -> Rate:
    """How many rows the policy rewrites or blocks."""
    return rate_of(np.array([stops_row(pair, policy) for pair in pairs], dtype=np.bool_), weights_of(pairs))


def stops_row(pair: Pair, policy: Policy) -> bool:
    """Whether the policy rewrites or blocks a row."""
    return stops(_decision(pair, policy))


def _decision(pair: Pair, policy: Policy) -> Decision:
    row, score = pair
    return decide(policy, row.check.side, score.verdict())


def _measured(data: Arrays, pairs: Sequence[Pair], threshold: float) -> Report | None:
    """The measures with `n`, `positives` and their intervals under `ci`; None if no row has a label.

    `pairs` are the rows of `data`.
    """
    scores, labels = data
    if not len(scores):
        return None
    measured: Measured = measure(scores, labels, threshold, weights=weights_of(pairs))
    return {"n": measured.n, "positives": measured.positives, **measured.values, "ci": dict(measured.ci)}


def _arrays(known: Sequence[tuple[float, bool]]) -> Arrays:
    scores = np.array([score for score, _ in known], dtype=np.float64)
    return scores, np.array([label for _, label in known], dtype=np.bool_)
