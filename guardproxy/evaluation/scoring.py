"""Rows to scores: a guard is asked about each distinct text once, and its answers are kept in a file.

A run that was broken off goes on where it stood, and another measure of the same scores costs nothing.
"""

import asyncio
import json
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from guardproxy.errors import ConfigError, GuardUnavailable, Overloaded
from guardproxy.evaluation.datasets import Row
from guardproxy.guards.cache import check_key
from guardproxy.ports import Guard
from guardproxy.types import Check, Conversation, Message, Part
from guardproxy.verdicts import worst_of_views
from guardproxy.views import views

# Checks under way at one time: enough for a guard to fill its batches.
CONCURRENCY = 16

# How often a check that a busy guard refuses is asked again, and the longest wait before that.
ATTEMPTS = 8
WAIT_S = 20.0

# So many checks that fail one after the other end the run.
FAILURES = 20

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS scores (
        guard TEXT NOT NULL, row BLOB NOT NULL, score TEXT NOT NULL, PRIMARY KEY (guard, row)
    ) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Score:
    """What a guard said of a row, and what that cost.

    `wall_s` is how long the check took with others beside it, `compute_s` its share of the time that the model ran.
    """

    unsafe: float
    categories: Mapping[str, float]
    wall_s: float
    compute_s: float
    tokens_computed: int
    tokens_reused: int
    windows: int


@dataclass(slots=True)
class Scored:
    """The rows with their scores, in order; None where the guard gave no verdict, and `failures` says why.

    `judged` is how many checks were asked in this run, and `seconds` how long that took; the rest was known.
    """

    rows: tuple[Row, ...]
    scores: list[Score | None]
    failures: list[str] = field(default_factory=list)
    judged: int = 0
    seconds: float = 0.0


class Store:
    """The scores of one guard in the file of all. `guard` must say everything that its scores depend on."""

    def __init__(self, database: sqlite3.Connection, guard: str) -> None:
        self._database = database
        self._guard = guard

    def get(self, key: bytes) -> Score | None:
        """The score kept for a row."""
        query = "SELECT score FROM scores WHERE guard = ? AND row = ?"
        found = self._database.execute(query, (self._guard, key)).fetchone()
        return None if found is None else Score(**json.loads(found[0]))

    def put(self, key: bytes, score: Score) -> None:
        """Keep a score, in place of one that may be there."""
        with self._database:
            row = (self._guard, key, json.dumps(asdict(score)))
            self._database.execute("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", row)

    def clear(self) -> None:
        """Forget this guard's scores."""
        with self._database:
            self._database.execute("DELETE FROM scores WHERE guard = ?", (self._guard,))


@contextmanager
def open_store(path: Path, guard: str) -> Iterator[Store]:
    """The scores of `guard` in the SQLite file at `path`, which is made. Raises ConfigError where it cannot be used."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=30.0)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(_SCHEMA)
            yield Store(database, guard)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"{path}: scores cannot be kept here: {error}") from error


async def score(
    rows: Sequence[Row], guard: Guard, store: Store, step: Callable[[int], object], names: Sequence[str] = ()
) -> Scored:
    """Scores of all rows by a guard, which is started if a score is missing, and closed. Equal rows are asked once.

    `names` are the views of a text that are judged with it, the worst of them counting, as the proxy does. `step` is
    called with the number of rows done since it was called last. A check that fails is told in `failures`
    and left without a score; one refused because the guard is busy is asked again, beside fewer others, and alone
    ATTEMPTS times in all. Raises
    GuardUnavailable once FAILURES checks have failed with no success between them; what was scored is kept.
    """
    keys = [check_key(row.check) for row in rows]
    times = Counter(keys)
    known = {key: store.get(key) for key in times}
    todo = {key: row for key, row in zip(keys, rows, strict=True) if known[key] is None}
    out = Scored(tuple(rows), [], judged=len(todo))
    step(len(rows) - sum(times[key] for key in todo))

    def done(key: bytes, found: Score | None) -> None:
        if found is not None:
            known[key] = found
            store.put(key, found)
        step(times[key])

    if todo:
        await guard.start()
        began = time.perf_counter()
        try:
            out.failures = await _judge(todo, partial(_ask, guard, names), done)
        finally:
            out.seconds = time.perf_counter() - began
            await guard.close()
    out.scores = [known[key] for key in keys]
    return out


async def _judge(
    todo: Mapping[bytes, Row], ask: Callable[[Check], Awaitable[Score]], done: Callable[[bytes, Score | None], None]
) -> list[str]:
    """Ask about every row, CONCURRENCY at a time, and hand each score to `done`; what failed, with its place.

    A guard that is too busy for so many is asked by fewer from then on.
    """
    pending = deque(todo.items())  # shared by all workers: each takes the next
    failures: list[str] = []
    in_a_row = 0
    workers = min(CONCURRENCY, len(todo))

    async def work() -> None:
        nonlocal in_a_row, workers
        while pending and in_a_row < FAILURES:
            key, row = pending.popleft()
            alone = workers == 1
            try:
                done(key, await (partial(_patient, ask) if alone else ask)(row.check))
                in_a_row = 0
            except GuardUnavailable as error:
                if isinstance(error, Overloaded) and not alone:
                    pending.appendleft((key, row))
                    if workers > 1:
                        break  # the others go on
                    continue
                done(key, None)
                failures.append(f"{row.place}: {error}")
                in_a_row += 1
        workers -= 1

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    if in_a_row >= FAILURES:
        raise GuardUnavailable(f"{in_a_row} checks failed one after the other, the last: {failures[-1]}")
    return failures


async def _patient(ask: Callable[[Check], Awaitable[Score]], check: Check) -> Score:
    """Ask a guard again that is busy with others' checks."""
    busy = AsyncRetrying(
        retry=retry_if_exception_type(Overloaded),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(0.1, WAIT_S),
        reraise=True,
    )
    return await busy(ask, check)


async def _ask(guard: Guard, names: Sequence[str], check: Check) -> Score:
    began = time.perf_counter()
    *before, turn = check.conversation.messages
    seen = [("text", check)]
    for view in views(turn.text, names):
        message = Message(turn.role, (Part(turn.parts[0].path, view.text),))
        seen.append((view.name, Check(Conversation((*before, message)), check.side)))
    verdict = worst_of_views([(name, await guard.judge(one)) for name, one in seen])
    usage = verdict.usage
    categories: dict[str, float] = {}
    for finding in verdict.findings:
        categories[finding.category] = max(finding.probability, categories.get(finding.category, 0.0))
    return Score(
        unsafe=verdict.unsafe,
        categories=categories,
        wall_s=time.perf_counter() - began,
        compute_s=usage.share_s,
        tokens_computed=usage.tokens_computed,
        tokens_reused=usage.tokens_reused,
        windows=usage.windows,
    )
