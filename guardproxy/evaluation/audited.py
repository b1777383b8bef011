"""Audit records as labelled rows with scores: what reviewers have labelled, weighted to stand for all records.

A label says whether a decision was right, so it says whether the text is unsafe (`replay.is_unsafe`). With a category,
it says so of that category too. Reviewers label some records only, and more of the stopped ones; passed turns may be a
random sample. So each labelled record counts for its stratum (side and action): the number of records there, each
passed one counted 1/rate times if a rate is given, divided by how many of them have a label. Within a stratum, the
labelled records must be like the others.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from guardproxy.evaluation.datasets import LabelledRow
from guardproxy.evaluation.scoring import Score, ScoredRows, probabilities
from guardproxy.replay import StoredTurn, agreed_unsafe, is_unsafe
from guardproxy.reviews import LabelKind
from guardproxy.types import SIGNALS, ActionName, Check, Conversation, Message, Part, Side


class RecordLabel(NamedTuple):
    """A reviewer's label of a record; `category` is empty if it names none."""

    kind: LabelKind
    category: str = ""


class Stratum(NamedTuple):
    """The records that a labelled record stands for."""

    side: Side
    action: ActionName


@dataclass(frozen=True, slots=True)
class AuditedRows:
    """Labelled records as weighted rows, with their stored scores.

    The others, by why they are no row: `unlabelled`; `disputed`, whose reviewers disagree; `unscored`, to which the
    guard gave no verdict; `excluded`, about which an exclusion decided and not a threshold; `outside` of the random
    sample, if a rate is given.
    """

    scored: ScoredRows
    others: Counter[str]


def audited_rows(
    turns: Iterable[StoredTurn],
    labels: Mapping[str, Sequence[RecordLabel]],
    name: str,
    rate: float | None = None,
) -> AuditedRows:
    """The labelled turns of acting policies as rows of the data set `name`.

    `labels` has the labels in force of a record by its id. `rate` is the share of requests in the random sample of
    passed turns, None if every passed turn was recorded.
    """
    rows: list[LabelledRow] = []
    scores: list[Score | None] = []
    strata: list[Stratum] = []
    sizes: Counter[Stratum] = Counter()
    others: Counter[str] = Counter()
    for turn in turns:
        passed = turn.decision.action == "pass"
        if turn.shadow or turn.verdict is None:
            others["unscored"] += not turn.shadow
            continue
        if turn.excluded:
            others["excluded"] += 1
            continue
        if rate is not None and passed and not turn.sampled:
            others["outside"] += 1
            continue
        stratum = Stratum(turn.side, turn.decision.action)
        sizes[stratum] += 1
        given = labels.get(turn.id, ())
        if agreed_unsafe([label.kind for label in given], turn.decision) is None:
            others["disputed" if given else "unlabelled"] += 1
            continue
        rows.append(labelled_row(turn, given, name))
        scores.append(stored_score(turn))
        strata.append(stratum)
    labelled = Counter(strata)
    each = {
        stratum: sizes[stratum] / labelled[stratum] / (rate if rate and stratum.action == "pass" else 1.0)
        for stratum in labelled
    }
    weighted = tuple(replace(row, weight=each[stratum]) for row, stratum in zip(rows, strata, strict=True))
    return AuditedRows(ScoredRows(weighted, scores), others)


def labelled_row(turn: StoredTurn, labels: Sequence[RecordLabel], name: str, asked: str = "") -> LabelledRow:
    """The turn as a row; without a label, nothing is known of it. `asked` is the user's text that a reply answers."""
    unsafe = is_unsafe(labels[0].kind, turn.decision) if labels else None
    # A text that is safe as a whole is of no category.
    known = dict.fromkeys(sorted(turn.scored - SIGNALS), False) if unsafe is False else {}
    known |= {label.category: bool(unsafe) for label in labels if label.category}
    return LabelledRow(turn.id, f"record {turn.number}", name, _check(turn, asked), unsafe, known)


def _check(turn: StoredTurn, asked: str) -> Check:
    own = Message(turn.side, (Part("text", turn.text),))
    before = (Message("user", (Part("asked", asked),)),) if asked and turn.side == "assistant" else ()
    return Check(Conversation((*before, own)), turn.side)


def stored_score(turn: StoredTurn) -> Score | None:
    """The probabilities that the record holds; they cost nothing. None without a verdict."""
    if turn.verdict is None:
        return None
    return Score(turn.verdict.unsafe, probabilities(turn.verdict), 0.0, 0.0, 0, 0, 0)
