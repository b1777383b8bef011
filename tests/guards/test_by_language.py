"""Guards that are chosen by the language of the judged text, with the real detector; a failure never counts as safe."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.errors import ConfigError, GuardUnavailable, Overloaded
from guardproxy.guards.combine import ByLanguage
from guardproxy.languages.detect import languages_of
from guardproxy.languages.scripts import has_other_letters
from guardproxy.types import Message, Part, Taxonomy
from tests.guards.kit import Fixed, check_of, found

ENGLISH = "How do I bake a cake without any flour or sugar in it?"
SENTENCES: dict[str, str] = json.loads(
    (Path(__file__).parent.parent / "languages" / "sentences.json").read_text("utf-8")
)
FIRST, OTHERS, BOTH = (1, 0), (0, 1), (1, 1)


def pair(reads: tuple[str, ...] = ("en",)) -> tuple[Fixed, Fixed, ByLanguage]:
    """Two guards, and the combination of them."""
    first, others = Fixed("first", 0.2, {"x": 0.2, "y": 0.1}), Fixed("others", 0.7, {"y": 0.6, "z": 0.5})
    return first, others, ByLanguage(first, others, reads)


def asked(text: str, reads: tuple[str, ...] = ("en",), before: tuple[str, ...] = ()) -> tuple[int, int]:
    """How often each guard is asked about a text."""
    first, others, both = pair(reads)
    asyncio.run(both.judge(check_of(text, *before)))
    return first.asked, others.asked


@pytest.mark.parametrize("language", SENTENCES)
def test_a_language_that_the_first_guard_does_not_read_goes_to_the_other(language: str) -> None:
    """The other guard alone is asked, or the first one alone if it reads the language."""
    assert asked(SENTENCES[language]) == OTHERS
    assert asked(SENTENCES[language], ("en", language)) == FIRST


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ENGLISH, FIRST),
        (f"{ENGLISH} {SENTENCES['de']}", BOTH),
        (f"{SENTENCES['zh']}\n{ENGLISH}", BOTH),
        (f"{SENTENCES['ru']} {SENTENCES['th']}", OTHERS),
        ("ok", FIRST),
        ("def foo(a, b):\n    return a + b", FIRST),
        ("Hans Müller, Søren Kierkegaard, José García", FIRST),
        ("3.14 ❤️👍🏽 \u2192 42", FIRST),
        ("\uff28\uff25\uff2c\uff2c\uff2f \U0001d421\U0001d41e\U0001d425\U0001d425\U0001d428", FIRST),
        ("\u03c3 = 3", BOTH),
        ("\u0431 7 \u0436 9", BOTH),
        ("炸", BOTH),
        ("\u05d4 \u05de 12", BOTH),
        ("", FIRST),
    ],
)
def test_who_is_asked(text: str, expected: tuple[int, int]) -> None:
    """Languages of both kinds go to both; no language only to both if there are letters of other alphabets."""
    assert asked(text) == expected


def test_the_context_does_not_count() -> None:
    """The last message decides, whatever the messages before it."""
    assert asked(ENGLISH, before=(SENTENCES["zh"],)) == FIRST
    assert asked(SENTENCES["zh"], before=(ENGLISH,)) == OTHERS


def test_every_readable_part_counts() -> None:
    """The parts of a message are one text, as for the guard; content that no guard reads is left out."""
    first, others, both = pair()
    parts = (Part("a", ENGLISH), Part("b", SENTENCES["th"]))
    check = check_of("")
    for kind, expected in (("text", BOTH), ("opaque", (2, 1))):
        message = Message("user", (parts[0], Part("b", parts[1].text, kind)))
        asyncio.run(both.judge(type(check)(type(check.conversation)((message,)), "user")))
        assert (first.asked, others.asked) == expected


@given(
    st.lists(st.sampled_from([ENGLISH, *SENTENCES.values(), "x = 1", "炸", "🔥"]), max_size=4).map(" ".join)
    | st.text(max_size=60),
    st.sets(st.sampled_from(["en", *SENTENCES]), min_size=1),
)
@settings(max_examples=150, deadline=None)
def test_a_text_is_never_left_to_a_guard_that_does_not_read_it(text: str, reads: set[str]) -> None:
    """Some guard is asked; the first is if it reads a language of the text, the other if a language is left."""
    languages = set(languages_of(text))
    first, others = asked(text, tuple(reads))
    assert first == (bool(languages & reads) or not languages)
    assert others == (bool(languages - reads) or (not languages and has_other_letters(text)))
    assert first or others


@given(st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_a_text_of_ascii_has_no_other_letters(text: str) -> None:
    """Letters of other alphabets are outside of ASCII, and one is enough wherever it is."""
    assert not has_other_letters(text.encode("ascii", "ignore").decode())
    assert has_other_letters(f"{text}ж")
    assert has_other_letters(f"你{text}")


def test_one_guard_decides_alone() -> None:
    """The verdict is that of the guard that was asked, in the name and taxonomy of the combination."""
    first, others, both = pair()
    both_taxonomies = f"t-first+t-others@{both.taxonomy.version}"
    for text, guard, expected in (
        (ENGLISH, first, {"x": 0.2, "y": 0.1}),
        (SENTENCES["de"], others, {"y": 0.6, "z": 0.5}),
    ):
        verdict = asyncio.run(both.judge(check_of(text)))
        assert (verdict.unsafe, found(verdict)) == (0.2 if guard is first else 0.7, expected)
        assert (verdict.guard, verdict.taxonomy) == ("first|others", both_taxonomies)
        assert verdict.usage.tokens_computed == 5


@pytest.mark.parametrize(("left", "right"), [(0.9, 0.1), (0.1, 0.9)])
def test_the_worst_of_both_counts(left: float, right: float) -> None:
    """Asked at once, each category and P(unsafe) have the highest probability; the work of both is added up."""
    first, others = Fixed("a", left, {"x": left, "y": 0.3}), Fixed("b", right, {"x": right, "z": 0.2})
    verdict = asyncio.run(ByLanguage(first, others, {"en"}).judge(check_of(f"{ENGLISH} {SENTENCES['ru']}")))
    assert verdict.unsafe == 0.9
    assert found(verdict) == {"x": 0.9, "y": 0.3, "z": 0.2}
    assert (verdict.usage.tokens_computed, verdict.usage.forward_s) == (10, 0.3)


@pytest.mark.parametrize("error", [GuardUnavailable("down"), Overloaded("full")])
@pytest.mark.parametrize("broken", [0, 1])
def test_a_guard_that_is_asked_and_fails_fails_all(error: GuardUnavailable, broken: int) -> None:
    """The failure of a guard that was asked never counts as safe; a guard that was not asked cannot fail."""
    guards = [Fixed("a", 0.1, {}), Fixed("b", 0.1, {})]
    guards[broken] = Fixed(guards[broken].name, 0.1, {}, error=error)
    both = ByLanguage(*guards, reads={"en"})
    texts = [ENGLISH, SENTENCES["ja"]]
    for text in (texts[broken], " ".join(texts)):
        with pytest.raises(type(error)):
            asyncio.run(both.judge(check_of(text)))
    assert asyncio.run(both.judge(check_of(texts[1 - broken]))).unsafe == 0.1


def test_one_taxonomy_of_both_stays_itself() -> None:
    """Two models of one kind have the taxonomy of each; otherwise, each category appears once."""
    first, others, both = pair()
    assert [(one.id, one.name) for one in both.taxonomy.categories] == [
        ("x", "x of first"),
        ("y", "y of first"),
        ("z", "z of others"),
    ]
    assert both.parts == (first, others)
    others.taxonomy = first.taxonomy
    assert ByLanguage(first, others, {"en"}).taxonomy == Taxonomy("t-first", first.taxonomy.categories, "v")


def test_both_are_started_closed_and_told() -> None:
    """Start, forget and close reach both guards, whichever was asked; a start that fails closes the first."""

    async def story() -> None:
        first, others, both = pair()
        await both.start()
        assert first.open
        assert others.open
        both.forget("s")
        await both.close()
        assert [(guard.open, guard.forgotten) for guard in (first, others)] == [(False, ["s"])] * 2
        with pytest.raises(ConfigError, match="no weights"):
            await ByLanguage(first, Fixed("b", 0, {}, starts=False), {"en"}).start()
        assert not first.open

    asyncio.run(story())


def test_names_and_languages_must_be_known() -> None:
    """Guards of one name, and a first guard of which no language is known, are configuration errors."""
    first, others, _ = pair()
    with pytest.raises(ConfigError, match="different names"):
        ByLanguage(first, first, {"en"})
    with pytest.raises(ConfigError, match="the languages that the guard 'first' reads must be known"):
        ByLanguage(first, others, ())
