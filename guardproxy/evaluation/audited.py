"""Audit records as labelled rows with scores: what reviewers have labelled, weighted to stand for all records.

A label says whether a decision was right, so it says whether the text is unsafe (`replay.is_unsafe`). With a category,
it says so of that category too. Reviewers label some records only, and more of the stopped ones; passed turns may be a
random sample. So each labelled record counts for its stratum (side and action): the number of records there, each
passed one counted 1/rate times if a rate is given, divided by how many of them have a label. Within a stratum, the
labelled records must be like the others.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from guardproxy.evaluation.datasets import LabelledRow
from guardproxy.evaluation.scoring import Score, ScoredRows, probabilities
from guardproxy.observe.masking import MASK
from guardproxy.replay import LabelKind, StoredTurn, is_unsafe
from guardproxy.types import SIGNALS, ActionName, Check, Conversation, Message, Part, Side


class RecordLabel(NamedTuple):
    """The effective label of a record; `category` is empty if it names none."""

    kind: LabelKind
    category: str = ""


class Stratum(NamedTuple):
    """The records that a labelled record stands for."""

    side: Side
    action: ActionName


@dataclass(frozen=True, slots=True)
class AuditedRows:
    """Labelled records with their stored scores, and the weight of each.

    `unlabelled`, `unscored` (the guard gave no verdict) and `outside` (passed turns outside of the sample, which count
    for nothing if a rate is given) are numbers of records that are no row.
    """

    scored: ScoredRows
    weights: tuple[float, ...]
    unlabelled: int
    unscored: int
    outside: int


def audited_rows(
    turns: Iterable[StoredTurn], labels: Mapping[str, RecordLabel], name: str, rate: float | None = None
) -> AuditedRows:
    """The labelled turns of acting policies as rows of the data set `name`.

    `rate` is the share of requests in the random sample of passed turns, None if every passed turn was recorded.
    """
    rows: list[LabelledRow] = []
    scores: list[Score | None] = []
    strata: list[Stratum] = []
    sizes: Counter[Stratum] = Counter()
    tallies: Counter[str] = Counter()
    for turn in turns:
        if turn.shadow:
            continue
        if turn.verdict is None:
            tallies["unscored"] += 1
            continue
        passed = turn.decision.action == "pass"
        if rate is not None and passed and not turn.sampled:
            tallies["outside"] += 1
            continue
        stratum = Stratum(turn.side, turn.decision.action)
        sizes[stratum] += 1
        label = labels.get(turn.id)
        if label is None:
            tallies["unlabelled"] += 1
            continue
        rows.append(labelled_row(turn, label, name))
        scores.append(stored_score(turn))
        strata.append(stratum)
    labelled = Counter(strata)
    each = {
        stratum: sizes[stratum] / labelled[stratum] / (rate if rate and stratum.action == "pass" else 1.0)
        for stratum in labelled
    }
    weights = tuple(each[stratum] for stratum in strata)
    return AuditedRows(
        ScoredRows(tuple(rows), scores), weights, tallies["unlabelled"], tallies["unscored"], tallies["outside"]
    )


def labelled_row(turn: StoredTurn, label: RecordLabel | None, name: str, asked: str = "") -> LabelledRow:
    """The turn as a row; without a label, nothing is known of it. `asked` is the user's text that a reply answers."""
    unsafe = None if label is None else is_unsafe(label.kind, turn.decision)
    return LabelledRow(
        turn.id, f"record {turn.number}", name, _check(turn, asked), unsafe, _labels(turn, label, unsafe)
    )


def _labels(turn: StoredTurn, label: RecordLabel | None, unsafe: bool | None) -> dict[str, bool]:
    """What a label says of categories: of the one that it names; a text that is safe as a whole is of none."""
    if label is None or unsafe is None:
        return {}
    known = {} if unsafe else dict.fromkeys(turn.scored - SIGNALS, False)
    return {**known, **({label.category: unsafe} if label.category else {})}


def _check(turn: StoredTurn, asked: str) -> Check:
    own = Message(turn.side, (Part("text", turn.text),))
    before = (Message("user", (Part("asked", asked),)),) if asked and turn.side == "assistant" else ()
    return Check(Conversation((*before, own)), turn.side)


def stored_score(turn: StoredTurn) -> Score | None:
    """The probabilities that the record holds; they cost nothing. None without a verdict."""
    if turn.verdict is None:
        return None
    return Score(turn.verdict.unsafe, probabilities(turn.verdict), 0.0, 0.0, 0, 0, 0)


def is_whole(text: str, coverage: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a stored text is the judged text itself, neither masked nor hashed nor left out.

    The coverage begins with the turn's own parts: the text has as many characters as the first of them, on lines of
    their own. Raises KeyError for anything but a coverage.
    """
    if not text.strip() or MASK.search(text):
        return False
    length = -1
    for part in coverage:
        if part["kind"] != "opaque" and part["characters"]:
            length += part["characters"] + 1
            if length >= len(text):
                break
    return length == len(text)
