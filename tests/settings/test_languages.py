"""The languages that a guard reads: the setting, the model's card, combined guards; and `on_language` by side."""

import json
from pathlib import Path

import pytest

from guardproxy.app import languages_read
from guardproxy.languages.detect import languages_of
from tests.settings.kit import RULES, mistakes, read

POLICY = f"policies: {{default: {{{RULES}}}}}\n"
EIGHT = frozenset({"de", "en", "es", "fr", "hi", "it", "pt", "th"})
ENGLISH = frozenset({"en"})
MANY = EIGHT | frozenset({"ar", "bn", "el", "id", "ja", "jv", "ko", "nl", "pl", "ru", "sw", "tr", "vi", "zh"})


def languages(guard: str, more: str = "") -> frozenset[str] | None:
    """The languages that the guard of a configuration reads."""
    return languages_read(read(f"guard: {guard}\n{more}{POLICY}"))


@pytest.mark.parametrize(
    ("guard", "expected"),
    [
        ("{}", ENGLISH),
        ("{model: embedded}", ENGLISH),
        ("{model: some/classifier}", None),
        ("{model: embedded-multilingual}", MANY),
        ("{model: unitary/toxic-bert}", ENGLISH),
        ("{family: llama_guard, model: meta-llama/LlamaGuard-7b}", ENGLISH),
        ('{family: llama_guard, model: /models/guard, options: {version: "2"}}', ENGLISH),
        ('{family: llama_guard, model: meta-llama/Llama-Guard-3-8B, options: {version: "3"}}', EIGHT),
        ("{family: llama_guard, model: meta-llama/Llama-Guard-3-1B/, options: {version: 3-1b}}", EIGHT),
        ('{family: llama_guard, model: meta-llama/Llama-Guard-4-12B, options: {version: "4"}}', EIGHT),
        ('{family: llama_guard, model: meta-llama/Llama-Guard-3-11B-Vision, options: {version: "3"}}', ENGLISH),
        ('{family: openai_moderation, service: {key: "${env:KEY}"}}', None),
        ("{languages: [en, zh]}", frozenset({"en", "zh"})),
        ("{languages: []}", None),
        ("{languages: null}", ENGLISH),
    ],
)
def test_the_languages_of_a_guard(guard: str, expected: frozenset[str] | None) -> None:
    """The setting, or the model's card; `[]` and unknown models make no statement."""
    settings = read(f"guard: {guard}\n{POLICY}", {"KEY": "k"})
    assert languages_read(settings) == expected


LARGE = 'guards:\n  large: {family: llama_guard, model: m/x, options: {version: "3"}%s}\n'


@pytest.mark.parametrize(
    ("guard", "more", "expected"),
    [
        ("{all: [embedded, large]}", "", ENGLISH),
        ("{cascade: {first: embedded, second: large, low: 0.1, high: 0.9}}", "", ENGLISH),
        ("{all: [embedded, large]}", ", languages: []", ENGLISH),
        ("{all: [embedded, large]}", ", languages: [fr]", frozenset()),
        ("{all: [embedded, large], languages: [en, fr]}", "", frozenset({"en", "fr"})),
        ("{all: [embedded, large], languages: []}", "", None),
    ],
)
def test_combined_guards_read_what_every_guard_reads(guard: str, more: str, expected: frozenset[str] | None) -> None:
    """A guard without a statement is left out; the combination's own setting comes first."""
    assert languages(guard, LARGE % more) == expected


@pytest.mark.parametrize(
    ("guard", "more", "expected"),
    [
        ("{by_language: {first: embedded, others: large}}", "", EIGHT),
        ("{by_language: {first: large, others: embedded}}", "", EIGHT),
        ("{by_language: {first: embedded, others: large}}", ", languages: [zh, ja]", frozenset({"en", "zh", "ja"})),
        ("{by_language: {first: embedded, others: large}}", ", languages: []", None),
        ("{by_language: {first: embedded, others: large}, languages: [en, zh]}", "", frozenset({"en", "zh"})),
        ("{by_language: {first: embedded, others: large}, languages: []}", "", None),
    ],
)
def test_guards_by_language_read_what_either_reads(guard: str, more: str, expected: frozenset[str] | None) -> None:
    """Each language has its guard; if the other guard makes no statement, neither does the combination."""
    assert languages(guard, LARGE % more) == expected


def test_the_languages_of_the_embedded_guards_are_detected() -> None:
    """The detector knows the languages of the model for many languages, so that none of its texts counts as unread."""
    place = Path(__file__).parent.parent / "languages" / "sentences.json"
    sentences: dict[str, str] = json.loads(place.read_text("utf-8"))
    assert {"en", "jv"} == MANY - set(sentences)
    assert all(languages_of(sentences[language]) == (language,) for language in MANY & set(sentences))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[en, xx]", "1:25: guard.languages[1]: 'xx' is not a code of ISO 639-1; use two lower-case letters"),
        ("[EN]", "1:21: guard.languages[0]: 'EN' is not a code of ISO 639-1"),
        ("[english]", "1:21: guard.languages[0]: 'english' is not a code of ISO 639-1"),
        ("[en, en]", "1:25: guard.languages[1]: en is already listed; remove it"),
        ("english", '1:20: guard.languages: must be a list, not "english"'),
        ("[no]", ""),
    ],
)
def test_mistakes_in_languages(text: str, message: str) -> None:
    """Each mistake has its place."""
    found = mistakes(f"guard: {{languages: {text}}}\n{POLICY}")
    assert [problem[: len(message)] for problem in found] == ([message] if message else [])


def test_a_mistake_in_a_member() -> None:
    """An entry of `guards` has the same check."""
    text = "guard: {all: [embedded, large]}\n" + LARGE % ", languages: [zz]" + POLICY
    assert mistakes(text)[0].split(";")[0].endswith("guards.large.languages[0]: 'zz' is not a code of ISO 639-1")


@pytest.mark.parametrize(
    ("text", "user", "assistant"),
    [
        ("", "flag", "flag"),
        (", on_language: block", "block", "block"),
        (", on_language: {user: allow}", "allow", "flag"),
    ],
)
def test_the_setting_of_each_side(text: str, user: str, assistant: str) -> None:
    """One action for both sides, or one for each; the default is to flag."""
    policy = read(f"policies: {{default: {{{RULES}{text}}}}}\n").policies.policies["default"]
    assert policy.on_language == {"user": user, "assistant": assistant}
