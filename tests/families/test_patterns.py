"""Patterns: what is a hit and where, which lists are mistakes, and how much of a growing text stays undecided."""

import hashlib
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.errors import ConfigError
from guardproxy.families.patterns import PatternFamily, open_family
from guardproxy.families.patterns.secrets import FORMATS
from guardproxy.patterns import LONGEST_WORD, CategoryPatterns, Reach

# A key of every format; in two pieces, so that no scanner takes this file for a leak.
KEYS = {
    "anthropic_key": ("sk-", "ant-api03-" + "aB3_" * 23 + "xAA"),
    "aws_access_key": ("AK", "IAQ7EXAMPLEABCDE2X"[:18]),
    "digitalocean_token": ("dop", "_v1_" + "0af9" * 16),
    "github_token": ("gh", "p_" + "a1B2" * 9),
    "gitlab_token": ("glp", "at-" + "a_B-1" * 4),
    "google_key": ("AI", "za" + "Sy-_7" * 7),
    "groq_key": ("gs", "k_" + "aB3d" * 13),
    "huggingface_token": ("hf", "_" + "aB" * 17),
    "jwt": ("ey", "JhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"),
    "npm_token": ("np", "m_" + "a1B2" * 9),
    "nvidia_key": ("nv", "api-" + "a_B-1" * 13),
    "openai_key": ("sk", "-proj-" + "a1_B" * 15 + "T3Blbk" + "FJ" + "c2-D" * 15),
    "private_key": ("-----BEGIN RSA ", "PRIVATE KEY-----\nMIIEow+/=\n-----END RSA PRIVATE KEY-----"),
    "pypi_token": ("py", "pi-AgEIcHlwaS5vcmc" + "aB3_" * 30),
    "replicate_token": ("r8", "_" + "a1B2" * 9 + "c"),
    "sendgrid_key": ("S", "G." + "aB" * 11 + "." + "c3" * 21 + "d"),
    "slack_token": ("xo", "xb-123456789012-abcdefABCDEF"),
    "slack_webhook": ("hooks.slack", ".com/services/T0ABCDEF1/B0ABCDEF2/" + "aB3d" * 6),
    "stripe_key": ("sk", "_live_" + "a1B2" * 8),
    "xai_key": ("xa", "i-" + "aB3d" * 20),
}
HARMLESS = (
    "Use an API key such as sk-..., ghp_xxxx or AKIA..., and put it into the header `Authorization: Bearer TOKEN`.",
    "git commit 4b825dc642cb6eb9a060e54bf8d69288fbee4904 fixes task-force-antidote-development-environment-variables",
    "https://example.com/path/to/a/very-long-page-name-with-many-words-and-numbers-1234567890-1234567890",
    "eyJhbGciOiJIUzI1NiJ9 is only the head of a token; hf_hub_download(repo_id) is a function; xoxo-love-you",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n-----BEGIN PUBLIC KEY-----",
    "npm_config_registry=https://registry.npmjs.org sk_live_demo rk_live_ gsk_settings AIzawa",
)


def sha256(phrase: str) -> str:
    """As `sha256sum` prints it."""
    return hashlib.sha256(phrase.encode()).hexdigest()


def family(**kinds: Any) -> PatternFamily:
    """A family with a single category, `c`."""
    return open_family(patterns={"c": CategoryPatterns(**kinds)})


def found(text: str, **kinds: Any) -> list[str]:
    """The texts of all hits."""
    return [text[slice(*hit.span)] for hit in family(**kinds).hits(text)]


def mistakes(**kinds: Any) -> list[str]:
    """The mistakes of a single category, by their keys."""
    with pytest.raises(ConfigError) as raised:
        family(**kinds)
    return [problem.removeprefix("patterns.c.") for problem in raised.value.problems]


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "text", "hits"),
    [
        ("bluebird", "A BlueBird, bluebirds and Bluebird's.", ["BlueBird", "Bluebird"]),
        ("falcon nine", "Falcon-Nine; falcon\n\nNINE? falcon 9", ["Falcon-Nine", "falcon\n\nNINE"]),
        ("Straße", "die STRASSE, Straße und Strassen", ["STRASSE", "Straße"]),
        ("bluebird", "日本bluebirdの計画、bluebird를 bluebirdและ", ["bluebird"] * 3),
        (
            "プロジェクト",
            "\uff8c\uff9f\uff9b\uff7c\uff9e\uff6a\uff78\uff84とプロジェクト",
            ["\uff8c\uff9f\uff9b\uff7c\uff9e\uff6a\uff78\uff84", "プロジェクト"],
        ),
        ("\uff8a\uff9f\uff7d", "パス、ハ\u309aス", ["パス", "ハ\u309aス"]),
        ("机密AB", "机密ａｂ", ["机密ａｂ"]),
        ("falcon nine", "这是falcon nine计划", ["falcon nine"]),
        ("café", "cafe\u0301 CAFÉ cafe", ["cafe\u0301", "CAFÉ"]),
        ("file", "the \ufb01le and Ｆｉｌｅ", ["\ufb01le", "Ｆｉｌｅ"]),  # noqa: RUF001 - letters that NFKC changes
        ("किताब", "एक किताब है, किताबें", ["किताब"]),
        ("機密", "これは機密です", ["機密"]),
        ("e-mail", "email e-mail E mail", ["e-mail", "E mail"]),
        ("don't", "I DON'T don t", ["DON'T", "don t"]),
        ("o_o", "o_o O_O o o", ["o_o", "O_O"]),
    ],
)
def test_words_are_found_as_readers_read_them(word: str, text: str, hits: list[str]) -> None:
    """Case, width, ligatures and the signs between the words of a phrase do not count; a part of a word is none."""
    assert found(text, words=(word,)) == hits


@pytest.mark.parametrize("word", ["c++", " ", "...", "-x", "$money", "a" * (LONGEST_WORD + 1), "a " * 21])
def test_words_that_could_not_be_found_are_mistakes(word: str) -> None:
    """An entry without whole words, too long a word and too many words."""
    (mistake,) = mistakes(words=("fine", word))
    assert mistake.startswith("words[1]: ")


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40), st.sampled_from(["", " ", "é ", "\ud800 "]))
def test_any_text_of_words_finds_itself(text: str, before: str) -> None:
    """What may be listed is found in every text that has it as whole words."""
    try:
        one = family(words=(text,))
    except ConfigError:
        return
    assert one.hits(f"{before}{text} more")


def test_hashed_phrases_are_found_by_their_hashes() -> None:
    """The hash is that of the words in small letters with single spaces; more words than `max_words` are not tried."""
    hashes = (sha256("grey heron"), sha256("osprey"), sha256("a b c"))
    text = "The Grey-Heron, an OSPREY, a b c"
    assert found(text, sha256=hashes) == ["Grey-Heron", "OSPREY", "a b c"]
    assert found(text, sha256=hashes, max_words=1) == ["OSPREY"]
    assert found("x" * LONGEST_WORD, sha256=(sha256("x" * LONGEST_WORD),))
    assert not found("x" * (LONGEST_WORD + 1), sha256=(sha256("x" * (LONGEST_WORD + 1)),))
    assert mistakes(sha256=("ab", sha256("x").upper())) == [
        f"sha256[{index}]: must be a SHA-256 in 64 lower-case hex digits" for index in (0, 1)
    ]


# --- expressions -----------------------------------------------------------------------------------------------------


AWS = "".join(KEYS["aws_access_key"])


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("a\nbluebird\tb", "bluebird"),
        ('say "bluebird"', "bluebird"),
        ("a\r\nBlueBird", "BlueBird"),
        (f"x\n{AWS}\n", AWS),
    ],
)
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_a_match_in_json_is_found_whatever_escape_stands_before_it(text: str, hit: str, depth: int) -> None:
    """As in the arguments of a tool call, which may have JSON in them; the place is that in the JSON."""
    for _ in range(depth):
        text = json.dumps({"x": text})
    assert found(text, words=("bluebird",), secrets="all") == [hit]


def test_a_key_with_slashes_is_found_in_json_that_escapes_them() -> None:
    """As PHP writes it."""
    key = "".join(KEYS["slack_webhook"]).replace("/", r"\/")
    assert found(key, secrets=("slack_webhook",)) == [key]


def test_a_path_is_no_json() -> None:
    """What is found without regard to escapes stays found."""
    assert found("C:\\bluebird\\nine", words=("bluebird", "nine")) == ["bluebird", "nine"]
    began = time.process_time()
    assert found("\\" * 1_000_000, words=("bluebird",)) == []
    assert time.process_time() - began < 20


def test_expressions_name_their_place_in_characters() -> None:
    """Also behind characters of several bytes, and of a lone surrogate."""
    text = "é😀 \ud800 AC-12 ü AC-34"
    assert found(text, regexes=(r"\bAC-[0-9]{2}\b",)) == ["AC-12", "AC-34"]
    assert found("ПРИВЕТ мир", regexes=("(?i)привет",)) == ["ПРИВЕТ"]


@pytest.mark.parametrize(
    ("regex", "reason"),
    [
        ("(x", "is no expression of RE2: missing )"),
        ("(?=a)b", "is no expression of RE2: invalid perl operator"),
        (r"(a)\1", "is no expression of RE2"),
        ("a*", "is found in every text"),
        ("|a", "is found in every text"),
        (r"\b", "is found in every text"),
        ("a+", "may match a text of any length"),
        ("a.*b", "may match a text of any length"),
        ("a{1000}{10}", "is no expression of RE2"),
        (r"\pL{3}", "may match a text of any length"),  # Python's parser, which measures it, does not know it
        ("[[:alpha:]]{3}", "may match a text of any length"),
        ("a{,9}b", "may match a text of any length"),
        ("\ud800", "has an unpaired surrogate"),
    ],
)
def test_expressions_that_are_mistakes(regex: str, reason: str) -> None:
    """Unknown syntax, what is found everywhere, and lengths without a bound."""
    (mistake,) = mistakes(regexes=(regex,))
    assert mistake.startswith(f"regexes[0]: {reason}")


def test_an_open_quotation_quotes_no_other_expression() -> None:
    """The quotation of `\\Q` goes on to the end of its own expression alone."""
    for regexes in ((r"\Qblue", r"x\Qy\E"), (r"xy", r"\Qblue"), (r"\Qblue", r"xy")):
        assert found("blue xy", regexes=regexes, max_length=9) == ["blue", "xy"]


def test_a_stated_length_is_a_bound() -> None:
    """An expression without a bound needs `max_length`; a match may be longer."""
    one = family(regexes=("a+b",), max_length=5)
    assert one.reaches == {"c": Reach(5)}
    assert [hit.span for hit in one.hits("x aaaaaaaaab")] == [(2, 12)]
    assert family(regexes=(r"\bAC-[0-9]{2,4}\b", "x")).reaches == {"c": Reach(7)}


@pytest.mark.parametrize(("regex", "text"), [("(a|aa)+$", "a" * 10**6 + "!"), ("(x+x+)+y", "x" * 10**6)])
def test_no_expression_takes_more_than_linear_time(regex: str, text: str) -> None:
    """Expressions that keep a backtracking engine busy for ever are answered at once."""
    began = time.process_time()
    assert found(text, regexes=(regex,), max_length=9) == []
    assert time.process_time() - began < 20


# --- credentials -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_a_key_of_every_format_is_found_whole(name: str) -> None:
    """In a sentence, in quotes, at the end of a text; and no other format takes it for its own."""
    key = "".join(KEYS[name])
    for text in (f"my key is {key}, keep it", f"k='{key}'", key):
        assert found(text, secrets=(name,)) == [key]
        assert [hit.label for hit in family(secrets="all").hits(text)] == [f"secrets.{name}"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_key_is_decided_within_the_length_that_its_format_states(name: str) -> None:
    """As soon as a stream has one character more than that of a key, nothing of the key counts as undecided."""
    key = "".join(KEYS[name])
    one, most = family(secrets=(name,)), FORMATS[name].most
    if name != "private_key":
        assert one.hits("x " + (key + "a" * most)[: most + 1], unfinished=True) or len(key) <= most
    assert one.hits(f"{key} ", unfinished=True)
    for end in range(1, len(key) + 1):
        begun = f"so {key[:end]}"
        held = one.reaches["c"].undecided(begun)
        assert one.hits(begun, unfinished=True) or held >= end


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_resembles_a_key_is_none(text: str) -> None:
    """Prefixes in prose, hashes, names in code."""
    assert found(text, secrets="all") == []


def test_unknown_formats_are_named() -> None:
    """With the formats that there are."""
    (mistake,) = mistakes(secrets=("githb",))
    assert mistake.startswith("secrets[0]: unknown format 'githb'; use all, or some of anthropic_key, ")


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_a_verdict_has_every_category() -> None:
    """A hit has its category's probability, its place and its kind; P(unsafe) is the greatest probability."""
    one = open_family(
        patterns={
            "names": CategoryPatterns(words=("bluebird",), probability=0.6),
            "tickets": CategoryPatterns(regexes=("AC-[0-9]",)),
            "keys": CategoryPatterns(secrets="all"),
        }
    )
    verdict = one.verdict("bluebird AC-1 bluebird", "g")
    assert [(f.category, f.probability, f.label, f.span) for f in verdict.findings] == [
        ("names", 0.6, "words", (0, 8)),
        ("tickets", 1.0, "regexes[0]", (9, 13)),
        ("keys", 0.0, "", None),
    ]
    assert (verdict.unsafe, verdict.span, verdict.guard) == (1.0, (9, 13), "g")
    clean = one.verdict("a quiet sentence", "g")
    assert (clean.unsafe, {f.probability for f in clean.findings}) == (0.0, {0.0})
    assert clean.taxonomy == verdict.taxonomy == f"patterns@{one.taxonomy.version}"
    assert family(words=("a",)).taxonomy.version != family(words=("b",)).taxonomy.version


def test_what_ends_an_unfinished_text_may_go_on() -> None:
    """A match at its end does not count yet, unless it is longer than it may be."""
    kinds: dict[str, Any] = {"words": ("ass",), "regexes": (r"\bAC-[0-9]+\b",), "max_length": 6}
    one = family(**kinds)
    for text, hits in (("an ass", 0), ("an ass ", 1), ("AC-123", 0), ("AC-123.", 1), ("AC-1234", 1)):
        assert len(one.hits(text, unfinished=True)) == hits, text
        assert len(one.hits(text)) == 1


@settings(max_examples=200)
@given(st.text(alphabet="ab é\n-_", max_size=60), st.integers(1, 3))
def test_undecided_words(text: str, words: int) -> None:
    """What is undecided begins with a word; so many words fit into it, or one less if the last one has ended."""
    held = Reach(words=words).undecided(text)
    tail = text[len(text) - held :] if held else ""
    before = text[: len(text) - held]
    assert not (tail and before and before[-1].isalnum() and tail[0].isalnum())
    counted = len([word for word in tail.replace("-", " ").split() if word])
    assert counted <= words
    whole = len([word for word in text.replace("-", " ").split() if word])
    ends_in_word = bool(text) and (text[-1].isalnum() or text[-1] == "_")
    assert counted == min(whole, words if ends_in_word else words - 1)


def test_undecided_ends_are_bounded() -> None:
    """A run of characters without a space, and a word too long for a list, are not held for ever."""
    assert Reach(unspaced=90).undecided("x " + "y" * 5000) == 90
    assert Reach(unspaced=90).undecided("x " + "y" * 50) == 50
    assert Reach(unspaced=90).undecided("yyy ") == 0
    assert Reach(words=2).undecided("one " + "y" * 5000) == 0
    assert Reach(words=2).undecided("one" + " " * 5000 + "two") == 5006
    assert Reach(40).undecided("x") == 1
