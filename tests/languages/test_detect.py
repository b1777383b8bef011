"""The languages of texts: clear cases, English that must stay English, mixed texts, and bounds for any text."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.languages import CODES, OTHER
from guardproxy.languages.detect import READ_WHOLE, languages_of
from guardproxy.languages.latin import windows

GERMAN = "wie kann ich am besten einen kuchen ohne mehl und zucker backen"
ENGLISH = "how do i bake a cake without any flour or sugar in it for my sister"
SENTENCES: dict[str, str] = json.loads((Path(__file__).parent / "sentences.json").read_text("utf-8"))
# Languages whose words are in the training, without names of their own.
UNNAMED = {
    "Hungarian": "Holnap szeretnék moziba menni a testvéremmel, ha nem lesz jó az idő.",
    "Croatian": "Sutra želim ići u kino s bratom ako vrijeme bude loše.",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_a_sentence_has_its_language(language: str) -> None:
    """A sentence of each language is named by its code."""
    assert languages_of(SENTENCES[language]) == (language,)


@pytest.mark.parametrize("language", UNNAMED)
def test_a_language_without_a_name_is_not_english(language: str) -> None:
    """The detector notices a language that it cannot name; a neighbour's name is no mistake."""
    assert languages_of(UNNAMED[language])
    assert "en" not in languages_of(UNNAMED[language])


@pytest.mark.parametrize("text", ["wie kann ich das machen", "como puedo hacer esto", "помоги мне", "你好吗", "สวัสดี"])
def test_short_texts(text: str) -> None:
    """A few words are enough if the text has nothing else."""
    assert languages_of(text)
    assert "en" not in languages_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "ok",
        "lol wtf u doin bruv innit",
        "yo wassup dawg, whatcha doin 2nite??",
        "im gonna b l8 cuz teh bus iz sooo sloww",
        "h0w c4n 1 f1x my w1f1",
        "WHAT THE HELL IS WRONG WITH THIS PRINTER",
        "kill -9 1234",
        "ls -la | grep foo && rm -rf /tmp/x",
        "def foo(a, b):\n    return a + b\n\nfor i in range(10):\n    print(foo(i, 2))",
        "SELECT id, name FROM users WHERE age > 3 ORDER BY name",
        "Hans Müller, Giovanni Rossi, Søren Kierkegaard, José García, François Dupont",
        "https://example.com/über/ich-bin-ein-berliner?x=1 hans.mueller@example.org",
        '{"name": "Zürich", "lat": 47.3, "tags": ["café", "naïve"]}',
        "3.14159 2.71828 1.41421 ❤️👍🏽🎉",
        "the \u03b1 and \u03b2 of a \u03b3-distribution, with \u03c3² and \u03bc unknown",
        "I had a croissant at a café in São Paulo with my fiancée, bon appétit!",
        "El Niño and La Niña are weather patterns in the Pacific",
        "de facto, per se, ad hoc and vice versa are common in English",
        "h o w  d o  i  b a k e  a  c a k e",
        "no more of you over here \U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "c3RvcCByZWFkaW5nIHRoaXMsIGl0IGlzIGJhc2U2NA==",
        "",
    ],
)
def test_english_and_no_language(text: str) -> None:
    """Slang, code, names, addresses, foreign words in English: nothing counts as another language."""
    assert set(languages_of(text)) <= {"en"}


@pytest.mark.parametrize("foreign", ["de", "es", "ru", "zh", "th"])
@pytest.mark.parametrize("pattern", ["{} {}", "{1}\n\n{0}", 'Translate this: "{1}" {0}'])
def test_every_language_of_a_mixed_text_is_named(foreign: str, pattern: str) -> None:
    """Two sentences in two languages are two languages, in any order and in quotes."""
    text = pattern.format("This is a longer English sentence about the weather.", SENTENCES[foreign])
    assert set(languages_of(text)) == {"en", foreign}


def test_three_languages_by_their_letters() -> None:
    """The language with the most letters is first."""
    text = f"{SENTENCES['de']} {SENTENCES['de']} {SENTENCES['de']}\n{SENTENCES['zh']}\nHow do I say that in English?"
    assert languages_of(text)[0] == "de"
    assert set(languages_of(text)) == {"de", "zh", "en"}


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("foreign", "repeat"), [("ru", 1), ("zh", 1), ("de", 60)])
def test_a_long_text_is_read_everywhere(place: float, foreign: str, repeat: int) -> None:
    """Another script is found anywhere; a passage in the Latin alphabet at the beginning, in the middle, at the end."""
    sentences = [f"{ENGLISH}. "] * 2_000
    sentences.insert(int(place * len(sentences)), f"{SENTENCES[foreign]} " * repeat)
    text = "".join(sentences)
    assert len(text) > READ_WHOLE
    assert set(languages_of(text)) == {"en", foreign}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_composed_and_decomposed_accents_are_the_same(form: "unicodedata._NormalizationForm") -> None:
    """Accents may be characters of their own."""
    assert languages_of(unicodedata.normalize(form, SENTENCES["vi"])) == ("vi",)


@given(st.text(max_size=400))
@settings(max_examples=300, deadline=None)
def test_any_text_has_known_languages(text: str) -> None:
    """Each language is named once, by a code of ISO 639-1 or `other`."""
    found = languages_of(text)
    assert len(set(found)) == len(found)
    assert set(found) <= CODES | {OTHER}


@given(st.text(st.characters(categories=["N", "P", "S", "Z"]), max_size=400))
@settings(max_examples=200, deadline=None)
def test_a_text_without_letters_has_no_language(text: str) -> None:
    """Numbers, signs and emoji are in no language."""
    assert languages_of(text) == ()


@given(
    st.lists(st.sampled_from(sorted(SENTENCES)), min_size=1, max_size=4, unique=True),
    st.sampled_from([" ", "\n", "\n\n"]),
)
@settings(max_examples=150, deadline=None)
def test_no_sentence_hides_another(languages: list[str], separator: str) -> None:
    """In a text of several languages, every language with a script of its own is found."""
    own = {"el", "he", "hi", "bn", "ta", "th", "ko", "ka", "hy", "am"}
    found = languages_of(separator.join(SENTENCES[language] for language in languages))
    assert own & set(languages) <= set(found)
    assert found


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_windows_hold_words_only(text: str) -> None:
    """A window is words of letters between single spaces, in lower case; its letters are at most those of the text."""
    for window in windows(text):
        assert window.text == f" {' '.join(window.text.split())} "
        assert not any(character.isdigit() for character in window.text)
        assert 0 <= window.letters <= len(window.text)
