"""Scoring: each text is judged once, scores are stored and runs resume; failures are reported and never scored."""

import asyncio
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import pytest

from guardproxy.errors import ConfigError, GuardUnavailable, Overloaded
from guardproxy.evaluation.datasets import LabelledRow
from guardproxy.evaluation.scoring import FAILURES, ScoredRows, open_score_store, score
from guardproxy.types import Check, Conversation, Finding, Message, Part, Taxonomy, Usage, Verdict


def row(text: str, line: int = 1) -> LabelledRow:
    """A row with a user text."""
    check = Check(Conversation((Message("user", (Part("p", text),)),)), "user")
    return LabelledRow(str(line), f"rows.jsonl:{line}", "rows", check, None, {})


def rows(texts: Iterable[str]) -> list[LabelledRow]:
    """A row for each text."""
    return [row(text, line) for line, text in enumerate(texts, 1)]


class Counting:
    """A guard whose P(unsafe) is the text's length in percent.

    A text with `down` in it fails; the first `busy` checks, and those beyond `room` at once, are refused as overload.
    """

    name = "counting"
    taxonomy = Taxonomy("t", ())

    def __init__(self, busy: int = 0, room: int = 99) -> None:
        self.asked: list[str] = []
        self.started = 0
        self.closed = 0
        self.at_once = 0
        self.most_at_once = 0
        self.busy = busy
        self.room = room

    async def judge(self, check: Check) -> Verdict:
        """Answer after yielding once to the event loop."""
        text = check.turn.text
        self.asked.append(text)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        full = self.at_once > self.room
        await asyncio.sleep(0)
        self.at_once -= 1
        if full:
            raise Overloaded("is full")
        if "down" in text:
            raise GuardUnavailable("is down")
        if self.busy:
            self.busy -= 1
            raise Overloaded("is busy")
        usage = Usage(forward_s=0.4, tokens_computed=7, tokens_reused=2, batch=4, windows=3, share_s=0.1)
        findings = (Finding("x", 0.1, view="a"), Finding("x", 0.3, view="b"))
        return Verdict(len(text) / 100, findings, self.name, usage=usage)

    def forget(self, stream: str) -> None:
        """Nothing is kept."""

    async def start(self) -> None:
        """Count the call."""
        self.started += 1

    async def close(self) -> None:
        """Count the call."""
        self.closed += 1


def scored(
    folder: Path, guard: Counting, data: list[LabelledRow], identity: str = "g", *, fresh: bool = False
) -> ScoredRows:
    """A run with the score store of a folder."""
    steps: list[int] = []
    with open_score_store(folder / "deep" / "scores.sqlite3", identity) as store:
        if fresh:
            store.clear()
        found = asyncio.run(score(data, guard, store, steps.append))
    assert sum(steps) == len(data)
    return found


def test_each_text_is_asked_once_and_kept(tmp_path: Path) -> None:
    """Equal texts share a score, and a second run neither judges a text nor starts the guard."""
    guard = Counting()
    data = rows(["a", "bb", "a"])
    first = scored(tmp_path, guard, data)
    assert sorted(guard.asked) == ["a", "bb"]
    assert [kept and kept.unsafe for kept in first.scores] == [0.01, 0.02, 0.01]
    again = scored(tmp_path, guard, data)
    assert again.scores == first.scores
    assert (first.judged, again.judged) == (2, 0)
    assert (len(guard.asked), guard.started, guard.closed) == (2, 1, 1)


def test_a_score_says_what_it_cost(tmp_path: Path) -> None:
    """`compute_s` is the row's share of its batch; the worst of several findings of a category counts."""
    (found,) = scored(tmp_path, Counting(), rows(["a"])).scores
    assert found is not None
    assert found.compute_s == pytest.approx(0.1)
    assert (found.tokens_computed, found.tokens_reused, found.windows) == (7, 2, 3)
    assert found.categories == {"x": 0.3}
    assert found.wall_s > 0


def test_guards_do_not_share_scores(tmp_path: Path) -> None:
    """Another identity, or a fresh run, judges the rows again."""
    guard = Counting()
    data = rows(["a"])
    scored(tmp_path, guard, data, "g")
    scored(tmp_path, guard, data, "h")
    scored(tmp_path, guard, data, "g", fresh=True)
    scored(tmp_path, guard, data, "h")
    assert len(guard.asked) == 3


def test_a_broken_off_run_goes_on(tmp_path: Path) -> None:
    """Scores from before a failure are kept; the next run judges only the missing rows."""
    guard = Counting()
    first = scored(tmp_path, guard, rows(["a", "down", "bb"]))
    assert [kept is None for kept in first.scores] == [False, True, False]
    assert first.failures == ["rows.jsonl:2: is down"]
    scored(tmp_path, guard, rows(["a", "down", "bb"]))
    assert guard.asked.count("down") == 2
    assert guard.asked.count("a") == 1


def test_views_are_judged_with_the_text(tmp_path: Path) -> None:
    """With views the worst verdict of text and views counts, as in the proxy; a text without a view is judged once."""
    guard = Counting()
    data = rows(["plain words", "wri\u200btten \uff57ide \uff57ords"])
    with open_score_store(tmp_path / "scores.sqlite3", "g") as store:
        found = asyncio.run(score(data, guard, store, [].append, ("invisible", "nfkc")))
    assert guard.asked == ["plain words", "wri\u200btten \uff57ide \uff57ords", "written wide words"]
    assert [kept and kept.unsafe for kept in found.scores] == [0.11, 0.19]


def test_a_guard_that_only_fails_ends_the_run(tmp_path: Path) -> None:
    """After FAILURES failures in a row the run stops, and the guard is closed."""
    guard = Counting()
    with pytest.raises(GuardUnavailable, match="checks failed in a row"):
        scored(tmp_path, guard, rows(f"down {n}" for n in range(200)))
    assert FAILURES <= len(guard.asked) < 60
    assert guard.closed == 1


def test_a_busy_guard_is_asked_again(tmp_path: Path) -> None:
    """A check that is refused as overload is repeated until it succeeds."""
    guard = Counting(busy=1)
    found = scored(tmp_path, guard, rows(["a"]))
    assert found.failures == []
    assert guard.asked == ["a", "a"]


def test_a_guard_with_little_room_scores_every_row(tmp_path: Path) -> None:
    """For a guard that refuses a third check, the run soon drops to two at a time, and no row is lost."""
    guard = Counting(room=2)
    found = scored(tmp_path, guard, rows("x" * n for n in range(1, 60)))
    assert found.failures == []
    assert all(found.scores)
    assert len(guard.asked) <= 59 + 16


def test_a_store_that_fails_during_the_run_is_an_error(tmp_path: Path) -> None:
    """A store that fails during the run ends it with the reason, and the guard is closed."""

    class Dropping(Counting):
        async def judge(self, check: Check) -> Verdict:
            with sqlite3.connect(tmp_path / "deep" / "scores.sqlite3") as database:
                database.execute("DROP TABLE IF EXISTS scores")
            return await super().judge(check)

    guard = Dropping()
    with pytest.raises(ConfigError, match="scores cannot be stored here"):
        scored(tmp_path, guard, rows(["a", "bb"]))
    assert guard.closed == 1


def test_checks_run_beside_each_other(tmp_path: Path) -> None:
    """Several checks are in flight at once, so that a guard can fill its batches."""
    guard = Counting()
    scored(tmp_path, guard, rows("x" * n for n in range(1, 60)))
    assert guard.most_at_once == 16


def test_a_place_that_cannot_hold_scores(tmp_path: Path) -> None:
    """A file that is not a database, or a folder that cannot be created, is an error."""
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "scores.sqlite3").write_text("no database, but long enough to be looked at as one" * 9)
    for path in (tmp_path / "file" / "scores.sqlite3", tmp_path / "scores.sqlite3"):
        with pytest.raises(ConfigError, match="scores cannot be stored here"), open_score_store(path, "g"):
            pass


def test_scores_of_two_runs_at_one_time(tmp_path: Path) -> None:
    """Two runs can write to the file at the same time."""
    path = tmp_path / "scores.sqlite3"
    with open_score_store(path, "g") as left, open_score_store(path, "h") as right:
        for store in (left, right):
            asyncio.run(score(rows(["a", "b"]), Counting(), store, [].append))
    assert sqlite3.connect(path).execute("SELECT count(*) FROM scores").fetchone() == (4,)
