"""Filters: what they select in both databases, and their form as the query of a URL."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, get_args
from urllib.parse import parse_qs, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guardproxy.observe.masking import apply_text_rule, short_hash
from guardproxy.reviews import Label, LabelKind
from guardproxy.sinks.database import KEYS, AuditStore, Filter, FilterError, ReviewStore, parse_bound, parse_moment
from guardproxy.types import ActionName, Cause, Decision, Finding, Reason, ReplyInfo, Side, Verdict
from tests.sinks.kit import HOSTILE, PASSED, record


def using(address: str, action: Callable[[AuditStore], Awaitable[Any]]) -> Any:
    """Run `action` on the store at `address` and return its result."""

    async def run() -> Any:
        store = AuditStore(address)
        try:
            return await action(store)
        finally:
            await store.close()

    return asyncio.run(run())


def scored(number: int, unsafe: float, **findings: float) -> Any:
    """Return a passed record with these probabilities."""
    found = tuple(Finding(category, probability) for category, probability in findings.items())
    return record(number, decision=PASSED, verdict=Verdict(unsafe, found, "embedded"), text="")


LOW_THRESHOLD = Decision("flag", "", (Reason("arson", 0.02, 0.01, "flag"),))
RECORDS = [
    record(0, user="ann", session="s1", client="c0ffee", text="How is a Kite built? Café, naïve"),
    record(1, user="bob", session="s1", text=HOSTILE, error="no answer in 2 s", reply=ReplyInfo(model="big-model")),
    scored(2, 0.03, violence=0.049, arson=0.001),
    scored(3, 0.5, violence=0.05, arson=0.3),
    record(4, shadow=True, text="東京の天気 kites"),
    record(5, verdict=None, decision=Decision("block", "", (), "guard_error"), text="bomb " * 4000 + "kite string"),
    record(6, decision=LOW_THRESHOLD, verdict=Verdict(0.02, (Finding("arson", 0.02),), "embedded"), text="x" * 9000),
]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (Filter(client="c0ffee"), [1]),
        (Filter(user="ann"), [1]),
        (Filter(session="s1"), [1, 2]),
        (Filter(error=True), [2]),
        (Filter(error=False), [1, 3, 4, 5, 6, 7]),
        (Filter(shadow="only"), [5]),
        (Filter(shadow="with", action="block"), [1, 2, 5, 6]),
        (Filter(shadow="without", action="block"), [1, 2, 6]),
        (Filter(category="arson"), [7]),
        (Filter(min_score=(("violence", 0.05),)), [1, 2, 4, 5]),
        (Filter(min_score=(("violence", 0.049),)), [1, 2, 3, 4, 5]),
        (Filter(min_score=(("violence", 0.0490001),)), [1, 2, 4, 5]),
        (Filter(min_score=(("unsafe", 0.03),)), [1, 2, 3, 4, 5]),
        (Filter(min_score=(("unsafe", 0.5),)), [4]),
        (Filter(max_score=(("unsafe", 0.02),)), [7]),
        (Filter(max_score=(("violence", 0.05),)), [3, 4, 7]),
        (Filter(max_score=(("arson", 0.001),)), [1, 2, 3, 5]),
        (Filter(min_score=(("arson", 0.001),), max_score=(("arson", 0.02),)), [3, 7]),
        (Filter(min_score=(("arson", 0.0),), max_score=(("violence", 0.049),)), [3, 7]),
        (Filter(text="kite"), [1, 6]),
        (Filter(text="KITE built"), [1]),
        (Filter(text='"built kite"'), []),
        (Filter(text='"a kite"'), [1]),
        (Filter(text="kite*"), [1, 5, 6]),
        (Filter(text='"kite str"*'), [6]),
        (Filter(text="cafe NAÏVE"), [1]),
        (Filter(text="天気"), [5]),
        (Filter(text="京天"), []),
        (Filter(text="bomb kite string"), [6]),
        (Filter(text="x" * 9000), [7]),
        (Filter(text="drop table"), [2]),
        (Filter(text="'; DROP TABLE \" x"), []),
    ],
)
def test_selects(address: str, chosen: Filter, expected: list[int]) -> None:
    """A filter finds exactly the records that match, whichever way they are read."""

    async def run(store: AuditStore) -> None:
        await store.write(RECORDS)
        found = await store.query(chosen, newest_first=False)
        assert [stored.seq for stored in found] == expected
        assert [stored.seq for stored in await store.page(chosen)] == expected[::-1]

    using(address, run)


# What few records have. Its end user and its session are hashes of names.
NAMED = record(
    7,
    user=short_hash(b"dora@example.com"),
    session=short_hash(b"dora's chat"),
    wire="ollama",
    sampled=True,
    complete=False,
    exclusion="0123456789ab,5f0c1d2e3a4b",
    decision=PASSED,
    verdict=None,
    text="",
)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (Filter(wire="ollama"), [8]),
        (Filter(wire="openai_chat", answered_model="big-model"), [2]),
        (Filter(cause="guard_error"), [6]),
        (Filter(sampled=True), [8]),
        (Filter(complete=False), [8]),
        (Filter(complete=True, sampled=False, user="ann"), [1]),
        (Filter(exclusion="any"), [8]),
        (Filter(exclusion="5f0c1d2e3a4b"), [8]),
        (Filter(exclusion="c1d2e3a4b"), []),
        (Filter(exclusion="none", user="bob"), [2]),
        (Filter(user="dora@example.com"), [8]),
        (Filter(user=" dora@example.com "), [8]),
        (Filter(user=short_hash(b"dora@example.com")), [8]),
        (Filter(session="dora's chat"), [8]),
        (Filter(client="dora@example.com"), []),
        (Filter(user=""), [3, 4, 5, 6, 7]),
        (Filter(label="correct", reviewer="ann"), [1]),
        (Filter(label="correct", reviewer="bob"), []),
        (Filter(reviewer="bob"), [1, 2]),
        (Filter(reviewer="ann", label="none", shadow="without", side="user"), [2, 3, 4, 6, 7, 8]),
    ],
)
def test_selects_by_states_names_and_reviewers(address: str, chosen: Filter, expected: list[int]) -> None:
    """States, names of which the store has only the hash, and who labelled what."""

    async def run(store: AuditStore) -> None:
        await store.write([*RECORDS, NAMED])
        given = [("record-0", "correct", "ann"), ("record-0", "false_positive", "bob"), ("record-1", "correct", "bob")]
        given += [("record-1", "false_positive", "bob"), ("record-2", "correct", "bob"), ("record-2", "none", "bob")]
        await store.label([Label(name, kind, by, 1.0) for name, kind, by in given])  # type: ignore[arg-type]
        assert [stored.seq for stored in await store.query(chosen, newest_first=False)] == expected

    using(address, run)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (Filter(user="ann", session="s1"), []),
        (Filter(user="alcie"), [f"no record has the user 'alcie', nor its hash {short_hash(b'alcie')}"]),
        (Filter(session="s1", user="bob", client="c1\u202e"), [r"no record has the client 'c1\u202e'"]),
        (Filter(model="gpt"), ["no record has the model 'gpt'; there are: small-model"]),
        (Filter(answered_model="x"), ["no record has the answered model 'x'; there are: big-model"]),
        (Filter(user="", side="assistant", action="rewrite", cause="opaque"), []),
    ],
)
def test_names_that_no_record_has(address: str, chosen: Filter, expected: list[str]) -> None:
    """The store says which name of a filter it does not know, its hash, and what there is instead."""

    async def run() -> list[str]:
        store = ReviewStore(address)
        await store.write(RECORDS)
        found = await store.unmatched(chosen)
        await store.close()
        return found

    assert asyncio.run(run()) == expected


def test_texts_that_are_hashes(address: str) -> None:
    """Where the store keeps hashes, a whole text finds its records; where it keeps nothing, the search is an error."""
    whole = "How is a kite built? \ud800" + " and again" * 300

    async def run(store: AuditStore) -> None:
        await store.write([record(1, text="")])
        with pytest.raises(FilterError, match=r"text: the store holds no texts: write `audit\.text"):
            await store.query(Filter(text="kite"))
        await store.write([record(2, text=apply_text_rule(whole, "hash")), record(3, text="kite")])
        assert [stored.seq for stored in await store.query(Filter(text=whole))] == [2]
        assert [stored.seq for stored in await store.query(Filter(text=apply_text_rule(whole, "hash")))] == [2]
        assert [stored.seq for stored in await store.query(Filter(text="kite"))] == [3]

    using(address, run)


def test_unknown_categories(address: str) -> None:
    """A category that no record has is an error that lists the known ones; in an empty store it finds nothing."""

    async def run(store: AuditStore) -> None:
        assert await store.query(Filter(category="violense")) == []
        await store.write(RECORDS)
        for chosen in (Filter(category="violense"), Filter(max_score=(("violense", 0.01),))):
            for read in (store.query(chosen), store.stats(chosen), store.counts("day", chosen), store.page(chosen)):
                with pytest.raises(FilterError, match=r"no record .* 'violense'; it has arson, jailbreak, .*violence"):
                    await read

    using(address, run)


def test_pages(address: str) -> None:
    """Pages by number reach every record once, in both directions."""

    async def run(store: AuditStore) -> None:
        await store.write([record(i, side="user" if i % 2 else "assistant") for i in range(25)])
        odd = Filter(side="user")
        seen: list[int] = []
        page = await store.page(odd, limit=5)
        while page:
            seen += [stored.seq for stored in page]
            page = await store.page(odd, before=page[-1].seq, limit=5)
        assert seen == list(range(24, 0, -2))
        assert [stored.seq for stored in await store.page(odd, after=8, limit=3)] == [14, 12, 10]
        assert [stored.seq for stored in await store.page(odd, after=8, before=12, limit=3)] == [10]

    using(address, run)


def test_counts_by(address: str) -> None:
    """Counts are by action for every value, without decisions of shadow policies unless the filter asks for them."""

    async def run(store: AuditStore) -> None:
        await store.write(RECORDS)
        assert (await store.counts("user"))["ann"] == {"block": 1}
        assert await store.counts("user", Filter(shadow="only")) == {"": {"block": 1}}
        assert await store.counts("category") == {
            "arson": {"flag": 1},
            "jailbreak": {"block": 2},
            "violence": {"block": 2},
        }
        assert await store.counts("action") == {"block": {"block": 3}, "flag": {"flag": 1}, "pass": {"pass": 2}}
        day = time.strftime("%Y-%m-%d", time.localtime(1_000_000))
        assert await store.counts("day") == {day: {"block": 3, "flag": 1, "pass": 2}}
        assert list(await store.counts("hour")) == [time.strftime("%Y-%m-%d %H:00", time.localtime(1_000_000))]
        await store.label([Label("record-0", "correct", "ann", 1.0), Label("record-0", "false_positive", "bob", 2.0)])
        assert await store.counts("label") == {
            "correct": {"block": 1},
            "false_positive": {"block": 1},
            "none": {"block": 2, "flag": 1, "pass": 2},
        }

    using(address, run)


# --- as the query of a URL -------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6)
BOUNDS = st.lists(st.tuples(NAMES, st.floats(0, 1)), max_size=3).map(tuple)
TRUTHS = st.sampled_from([None, True, False])
FILTERS = st.builds(
    Filter,
    since=st.none() | st.floats(0, 2e9),
    until=st.none() | st.floats(2.1e9, 4e9),
    side=st.sampled_from([None, *get_args(Side)]),
    action=st.sampled_from([None, *get_args(ActionName)]),
    label=st.sampled_from([None, *get_args(LabelKind)]),
    shadow=st.sampled_from([None, "only", "without", "with"]),
    cause=st.sampled_from([None, *get_args(Cause)]),
    exclusion=st.sampled_from([None, "any", "none", "5f0c1d2e3a4b"]),
    error=TRUTHS,
    sampled=TRUTHS,
    complete=TRUTHS,
    text=st.none() | NAMES.map(lambda text: f"{text} kite"),
    min_score=BOUNDS,
    max_score=BOUNDS,
    **dict.fromkeys(
        (
            *("category", "route", "request_id", "model", "policy", "client", "user", "session", "wire"),
            *("answered_model", "reviewer"),
        ),
        st.none() | NAMES,
    ),
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(chosen=FILTERS)
def test_a_filter_survives_a_url(chosen: Filter) -> None:
    """A filter written as a URL's query is read as the same filter."""
    assert Filter.from_query(parse_qs(urlencode(chosen.to_query(), doseq=True))) == chosen


@given(query=st.dictionaries(st.sampled_from(KEYS) | st.text(), st.lists(st.text(), max_size=3)))
def test_any_query_is_read_or_refused(query: dict[str, list[str]]) -> None:
    """A query gives a filter, or an error that begins with one of its keys."""
    key, message = "", ""
    try:
        Filter.from_query(query, now=0.0)
    except FilterError as error:
        key, message = error.key, str(error)
    assert not message or key in query
    assert message.startswith(f"{key}: " if message else "")


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ({"sicne": ["7d"]}, "sicne: is no filter; the filters are since, until"),
        ({"since": ["soon"]}, "since: 'soon' is no time"),
        ({"since": ["@nan"]}, "since: '@nan' is no time"),
        ({"side": ["system"]}, "side: 'system' is not one of user, assistant"),
        ({"side": ["user", "assistant"]}, "side: has 2 values; give one"),
        ({"min-score": ["violence"]}, "min-score: 'violence' is not CATEGORY=PROBABILITY"),
        ({"min-score": ["violence=1.5"]}, "min-score: 'violence=1.5' is not"),
        ({"text": ["?!"]}, "text: has no word"),
        ({"text": [" ".join(f"w{i}" for i in range(65))]}, "text: has more than 64 different words"),
        ({"error": ["yes"]}, "error: 'yes' is not one of true, false"),
        ({"exclusion": ["some"]}, "exclusion: 'some' is no exclusion: write any, none, or the id"),
        ({"cause": ["mood"]}, "cause: 'mood' is not one of verdict, guard_error, overload, opaque, language"),
        ({"since": ["1d"], "until": ["2d"]}, "until: '2d' is not later than since, '1d'"),
    ],
)
def test_mistakes(query: dict[str, list[str]], problem: str) -> None:
    """The error of a query names the key and what is wrong."""
    with pytest.raises(FilterError) as caught:
        Filter.from_query(query)
    assert str(caught.value).startswith(problem)


def test_moments() -> None:
    """Ages count back from now; times without a zone, `today` and `yesterday` are local."""
    now = time.mktime((2025, 3, 1, 15, 30, 0, 0, 0, -1))
    assert parse_moment("2h", now=now) == now - 7200
    assert parse_moment("today", now=now) == time.mktime((2025, 3, 1, 0, 0, 0, 0, 0, -1))
    assert parse_moment("yesterday", now=now) == time.mktime((2025, 2, 28, 0, 0, 0, 0, 0, -1))
    assert parse_moment("2025-01-31T12:00+00:00") == 1738324800.0
    assert parse_moment("2025-01-31") == time.mktime((2025, 1, 31, 0, 0, 0, 0, 0, -1))
    assert parse_moment("@12.5") == 12.5
    assert parse_bound("a=b=0.25") == ("a=b", 0.25)
