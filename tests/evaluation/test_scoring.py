"""Rows to scores: each text is asked once, kept, resumed; failures are told and never scored."""

import asyncio
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import pytest

from guardproxy.errors import ConfigError, GuardUnavailable, Overloaded
from guardproxy.evaluation.datasets import Row
from guardproxy.evaluation.scoring import FAILURES, Scored, open_store, score
from guardproxy.types import Check, Conversation, Finding, Message, Part, Taxonomy, Usage, Verdict


def row(text: str, line: int = 1) -> Row:
    """A row with a user text."""
    check = Check(Conversation((Message("user", (Part("p", text),)),)), "user")
    return Row(str(line), f"rows.jsonl:{line}", "rows", check, None, {})


def rows(texts: Iterable[str]) -> list[Row]:
    """A row for each text."""
    return [row(text, line) for line, text in enumerate(texts, 1)]


class Counting:
    """A guard whose P(unsafe) is the text's length in percent; texts with `down` or `busy` in them fail."""

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
        """Answers after a moment."""
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
        """Keeps nothing."""

    async def start(self) -> None:
        """Counts."""
        self.started += 1

    async def close(self) -> None:
        """Counts."""
        self.closed += 1


def scored(folder: Path, guard: Counting, data: list[Row], identity: str = "g", *, fresh: bool = False) -> Scored:
    """A run against the file of scores in a folder."""
    steps: list[int] = []
    with open_store(folder / "deep" / "scores.sqlite3", identity) as store:
        if fresh:
            store.clear()
        found = asyncio.run(score(data, guard, store, steps.append))
    assert sum(steps) == len(data)
    return found


def test_each_text_is_asked_once_and_kept(tmp_path: Path) -> None:
    """Equal texts share a score, and another run asks nothing and does not even start the guard."""
    guard = Counting()
    data = rows(["a", "bb", "a"])
    first = scored(tmp_path, guard, data)
    assert sorted(guard.asked) == ["a", "bb"]
    assert [one and one.unsafe for one in first.scores] == [0.01, 0.02, 0.01]
    again = scored(tmp_path, guard, data)
    assert again.scores == first.scores
    assert (first.judged, again.judged) == (2, 0)
    assert (len(guard.asked), guard.started, guard.closed) == (2, 1, 1)


def test_a_score_says_what_it_cost(tmp_path: Path) -> None:
    """Computing time is the row's share of its batch; of several findings of a category the worst counts."""
    (found,) = scored(tmp_path, Counting(), rows(["a"])).scores
    assert found is not None
    assert found.compute_s == pytest.approx(0.1)
    assert (found.tokens_computed, found.tokens_reused, found.windows) == (7, 2, 3)
    assert found.categories == {"x": 0.3}
    assert found.wall_s > 0


def test_guards_do_not_share_scores(tmp_path: Path) -> None:
    """Another identity, and a fresh run, ask anew."""
    guard = Counting()
    data = rows(["a"])
    scored(tmp_path, guard, data, "g")
    scored(tmp_path, guard, data, "h")
    scored(tmp_path, guard, data, "g", fresh=True)
    scored(tmp_path, guard, data, "h")
    assert len(guard.asked) == 3


def test_a_broken_off_run_goes_on(tmp_path: Path) -> None:
    """What was scored before a failure is kept; the next run asks for the rest only."""
    guard = Counting()
    first = scored(tmp_path, guard, rows(["a", "down", "bb"]))
    assert [one is None for one in first.scores] == [False, True, False]
    assert first.failures == ["rows.jsonl:2: is down"]
    scored(tmp_path, guard, rows(["a", "down", "bb"]))
    assert guard.asked.count("down") == 2
    assert guard.asked.count("a") == 1


def test_views_are_judged_with_the_text(tmp_path: Path) -> None:
    """With views the worst reading of a text counts, as in the proxy; a text without one is asked once."""
    guard = Counting()
    data = rows(["plain words", "wri\u200btten \uff57ide \uff57ords"])
    with open_store(tmp_path / "scores.sqlite3", "g") as store:
        found = asyncio.run(score(data, guard, store, [].append, ("invisible", "nfkc")))
    assert guard.asked == ["plain words", "wri\u200btten \uff57ide \uff57ords", "written wide words"]
    assert [one and one.unsafe for one in found.scores] == [0.11, 0.19]


def test_a_guard_that_only_fails_ends_the_run(tmp_path: Path) -> None:
    """After a number of failures in a row the run stops, and the guard is closed."""
    guard = Counting()
    with pytest.raises(GuardUnavailable, match="failed one after the other"):
        scored(tmp_path, guard, rows(f"down {n}" for n in range(200)))
    assert FAILURES <= len(guard.asked) < 60
    assert guard.closed == 1


def test_a_busy_guard_is_asked_again(tmp_path: Path) -> None:
    """A check that is refused as overload is repeated until it is answered."""
    guard = Counting(busy=1)
    found = scored(tmp_path, guard, rows(["a"]))
    assert found.failures == []
    assert guard.asked == ["a", "a"]


def test_a_guard_with_little_room_scores_every_row(tmp_path: Path) -> None:
    """A guard that refuses more than two checks at a time is soon asked two at a time, and no row is lost."""
    guard = Counting(room=2)
    found = scored(tmp_path, guard, rows("x" * n for n in range(1, 60)))
    assert found.failures == []
    assert all(found.scores)
    assert len(guard.asked) <= 59 + 16


def test_a_place_that_breaks_on_the_way_is_told(tmp_path: Path) -> None:
    """Scores that cannot be kept any more end the run with the reason, and the guard is closed."""

    class Dropping(Counting):
        async def judge(self, check: Check) -> Verdict:
            with sqlite3.connect(tmp_path / "deep" / "scores.sqlite3") as database:
                database.execute("DROP TABLE IF EXISTS scores")
            return await super().judge(check)

    guard = Dropping()
    with pytest.raises(ConfigError, match="scores cannot be kept here"):
        scored(tmp_path, guard, rows(["a", "bb"]))
    assert guard.closed == 1


def test_checks_run_beside_each_other(tmp_path: Path) -> None:
    """Several checks are under way at a time, so that a guard can fill its batches."""
    guard = Counting()
    scored(tmp_path, guard, rows("x" * n for n in range(1, 60)))
    assert guard.most_at_once == 16


def test_a_place_that_cannot_hold_scores(tmp_path: Path) -> None:
    """A file that is no database, or a folder that cannot be made, is told."""
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "scores.sqlite3").write_text("no database, but long enough to be looked at as one" * 9)
    for path in (tmp_path / "file" / "scores.sqlite3", tmp_path / "scores.sqlite3"):
        with pytest.raises(ConfigError, match="scores cannot be kept here"), open_store(path, "g"):
            pass


def test_scores_of_two_runs_at_one_time(tmp_path: Path) -> None:
    """Two runs can write to the file beside each other."""
    path = tmp_path / "scores.sqlite3"
    with open_store(path, "g") as left, open_store(path, "h") as right:
        for store in (left, right):
            asyncio.run(score(rows(["a", "b"]), Counting(), store, [].append))
    assert sqlite3.connect(path).execute("SELECT count(*) FROM scores").fetchone() == (4,)
