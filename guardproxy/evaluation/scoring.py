"""Scores of rows: the guard judges each distinct text once, and a file keeps its scores.

An interrupted run continues where it stopped, and another measure of the same scores needs no check.
"""

import json
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from guardproxy.calibration import Calibration
from guardproxy.errors import ConfigError, GuardUnavailable, Overloaded
from guardproxy.evaluation.datasets import LabelledRow
from guardproxy.guards.cache import check_key
from guardproxy.pipeline import gathered
from guardproxy.policy import UNSAFE
from guardproxy.ports import Guard
from guardproxy.types import Check, Conversation, Finding, Message, Part, Side, Verdict
from guardproxy.verdicts import worst_findings, worst_of_views
from guardproxy.views import views

# Checks in flight: enough for a guard to fill its batches.
CONCURRENCY = 16

# Attempts of a check that a busy guard refuses, and the longest wait between two of them.
ATTEMPTS = 8
WAIT_S = 20.0

# This many failures in a row end the run.
FAILURES = 20

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS scores (
        guard TEXT NOT NULL, row BLOB NOT NULL, score TEXT NOT NULL, PRIMARY KEY (guard, row)
    ) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Score:
    """A guard's probabilities for a row, and what they cost.

    `wall_s` is the duration of the check, with other checks in flight; `compute_s` its share of the model's time.
    """

    unsafe: float
    categories: Mapping[str, float]
    wall_s: float
    compute_s: float
    tokens_computed: int
    tokens_reused: int
    windows: int

    def verdict(self, guard: str = "") -> Verdict:
        """The probabilities as a verdict of `guard`."""
        findings = tuple(Finding(category, probability) for category, probability in self.categories.items())
        return Verdict(self.unsafe, findings, guard)


def probabilities(verdict: Verdict) -> dict[str, float]:
    """The highest probability of each category in the verdict."""
    return {category: finding.probability for category, finding in worst_findings(verdict.findings).items()}


@dataclass(slots=True)
class ScoredRows:
    """The rows with their scores, in order; a score is None if the check failed, and `failures` holds the reasons.

    `judged` counts the checks of this run, which took `seconds`; the other scores were in the store.
    """

    rows: tuple[LabelledRow, ...]
    scores: list[Score | None]
    failures: list[str] = field(default_factory=list)
    judged: int = 0
    seconds: float = 0.0


def calibrated(scored: ScoredRows, calibration: Calibration) -> ScoredRows:
    """The same rows with calibrated probabilities."""
    pairs = zip(scored.rows, scored.scores, strict=True)
    return replace(scored, scores=[score and _calibrated(score, row.check.side, calibration) for row, score in pairs])


def _calibrated(score: Score, side: Side, calibration: Calibration) -> Score:
    categories = {name: calibration.value(side, name, value) for name, value in score.categories.items()}
    return replace(score, unsafe=calibration.value(side, UNSAFE, score.unsafe), categories=categories)


class ScoreStore:
    """The scores of one guard in the file for all guards. `guard` must name everything that its scores depend on."""

    def __init__(self, database: sqlite3.Connection, guard: str) -> None:
        self._database = database
        self._guard = guard

    def get(self, key: bytes) -> Score | None:
        """The stored score of a row, or None."""
        query = "SELECT score FROM scores WHERE guard = ? AND row = ?"
        found = self._database.execute(query, (self._guard, key)).fetchone()
        return None if found is None else Score(**json.loads(found[0]))

    def put(self, key: bytes, score: Score) -> None:
        """Store a score; replace an earlier one."""
        with self._database:
            row = (self._guard, key, json.dumps(asdict(score)))
            self._database.execute("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", row)

    def clear(self) -> None:
        """Delete this guard's scores."""
        with self._database:
            self._database.execute("DELETE FROM scores WHERE guard = ?", (self._guard,))


@contextmanager
def open_score_store(path: Path, guard: str) -> Iterator[ScoreStore]:
    """The scores of `guard` in the SQLite file at `path`, created if needed. Raises ConfigError if it is unusable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=30.0)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(_SCHEMA)
            yield ScoreStore(database, guard)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"{path}: scores cannot be stored here: {error}; --data-dir names another folder") from error


async def score(
    rows: Sequence[LabelledRow],
    guard: Guard,
    store: ScoreStore,
    step: Callable[[int], object],
    names: Sequence[str] = (),
) -> ScoredRows:
    """Score all rows with a guard, which is started only if a score is missing, and closed. Equal rows share a check.

    `names` are the views that are judged with each text; the worst verdict counts, as in the proxy. `step` is called
    with the number of rows done since its last call. A check that fails leaves its row without a score and adds to
    `failures`. If the guard is busy, fewer checks run at once and the refused check is asked again; a check that runs
    alone is asked up to ATTEMPTS times. Raises GuardUnavailable after FAILURES failures in a row; finished scores stay
    in the store.
    """
    keys = [check_key(row.check) for row in rows]
    times = Counter(keys)
    known = {key: store.get(key) for key in times}
    missing = {key: row for key, row in zip(keys, rows, strict=True) if known[key] is None}
    out = ScoredRows(tuple(rows), [], judged=len(missing))
    step(len(rows) - sum(times[key] for key in missing))

    def done(key: bytes, new: Score | None) -> None:
        if new is not None:
            known[key] = new
            store.put(key, new)
        step(times[key])

    if missing:
        await guard.start()
        began = time.perf_counter()
        try:
            out.failures = await _judge_all(missing, partial(judged, guard, names), done)
        finally:
            out.seconds = time.perf_counter() - began
            await guard.close()
    out.scores = [known[key] for key in keys]
    return out


async def _judge_all(
    missing: Mapping[bytes, LabelledRow],
    judge: Callable[[Check], Awaitable[Score]],
    done: Callable[[bytes, Score | None], None],
) -> list[str]:
    """Judge every row, CONCURRENCY at a time, and pass each score to `done`; return the failures with their places.

    Each refusal by a busy guard ends one worker for good, down to a single one.
    """
    pending = deque(missing.items())  # shared by all workers: each takes the next row
    failures: list[str] = []
    in_a_row = 0
    workers = min(CONCURRENCY, len(missing))

    async def work() -> None:
        nonlocal in_a_row, workers
        while pending and in_a_row < FAILURES:
            key, row = pending.popleft()
            alone = workers == 1
            try:
                done(key, await (partial(_judge_patiently, judge) if alone else judge)(row.check))
                in_a_row = 0
            except GuardUnavailable as error:
                if isinstance(error, Overloaded) and not alone:
                    pending.appendleft((key, row))
                    # Other workers may have ended while this one waited: the last must not end too.
                    if workers > 1:
                        break
                    continue
                done(key, None)
                failures.append(f"{row.place}: {error}")
                in_a_row += 1
        workers -= 1

    await gathered([work() for _ in range(workers)])
    if in_a_row >= FAILURES:
        raise GuardUnavailable(f"{in_a_row} checks failed in a row, the last: {failures[-1]}")
    return failures


async def _judge_patiently(judge: Callable[[Check], Awaitable[Score]], check: Check) -> Score:
    """Repeat the check with exponential back-off while the guard is overloaded."""
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(Overloaded),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(0.1, WAIT_S),
        reraise=True,
    )
    return await retrying(judge, check)


async def judged(guard: Guard, names: Sequence[str], check: Check) -> Score:
    """The score of a check: the worst verdict on its text and on the named views of it."""
    began = time.perf_counter()
    *before, turn = check.conversation.messages
    checks = [("text", check)]
    for view in views(turn.text, names):
        message = Message(turn.role, (Part(turn.parts[0].path, view.text),))
        checks.append((view.name, Check(Conversation((*before, message)), check.side)))
    verdict = worst_of_views([(name, await guard.judge(view_check)) for name, view_check in checks])
    usage = verdict.usage
    return Score(
        unsafe=verdict.unsafe,
        categories=probabilities(verdict),
        wall_s=time.perf_counter() - began,
        compute_s=usage.share_s,
        tokens_computed=usage.tokens_computed,
        tokens_reused=usage.tokens_reused,
        windows=usage.windows,
    )
