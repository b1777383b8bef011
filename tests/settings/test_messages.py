"""Messages by category and place: what a file may say, and the shipped file of crisis resources."""

import os
from pathlib import Path

import pytest

from guardproxy.app.registries import catalogue
from guardproxy.errors import ConfigError
from guardproxy.localtext import reader_of
from guardproxy.policy import BlockPolicy, Decision, Policy, Reason, leading
from guardproxy.settings import load
from guardproxy.settings.checks.messages import _NEVER_SHOWN, _ONE_TEXT
from guardproxy.settings.notes import notes
from guardproxy.settings.packaged import crisis

HEAD = "version: 1\nupstream: {url: http://llm.test}\n"
RULES = "suicide_self_harm: {block: 0.5}, '*': {block: 0.5}"


def read(folder: Path, block: str, rules: str = RULES) -> Policy:
    """The policy of a file with this section `block`. Raises ConfigError."""
    file = folder / "guardproxy.yaml"
    sides = f"user: {{{rules}}}, assistant: {{'*': {{}}}}"
    file.write_text(f"{HEAD}policies: {{default: {{{sides}, block: {block}}}}}\n")
    return load(file, {}, catalogue()).policies.policies["default"]


def mistakes(folder: Path, block: str, rules: str = RULES) -> list[str]:
    """The mistakes of such a file, without its name and places."""
    with pytest.raises(ConfigError) as caught:
        read(folder, block, rules)
    return [problem.partition("policies.default.")[2] for problem in caught.value.problems]


def decision(*reasons: tuple[str, float, str]) -> Decision:
    """A decision to block for these categories, probabilities and actions."""
    return Decision("block", "", tuple(Reason(name, p, 0.1, action) for name, p, action in reasons))  # type: ignore[arg-type]


def test_a_message_by_category(tmp_path: Path) -> None:
    """The most severe reason chooses; P(unsafe) only if no category has reached a threshold."""
    block = read(tmp_path, "{message: {suicide_self_harm: Call., '*': No.}}").block
    said = {
        decision(("suicide_self_harm", 0.6, "block"), ("unsafe", 0.9, "block")): "Call.",
        decision(("suicide_self_harm", 0.6, "flag"), ("unsafe", 0.9, "block")): "Call.",
        decision(("suicide_self_harm", 0.9, "flag"), ("violence_hate", 0.5, "block")): "No.",
        decision(("suicide_self_harm", 0.5, "block"), ("violence_hate", 0.6, "block")): "No.",
        decision(("unsafe", 0.9, "block")): "No.",
        Decision("block", "", (), "opaque"): "No.",
    }
    assert {one: block.refusal_of(one).message for one in said} == said
    assert leading(decision(("unsafe", 0.9, "block"))) == "unsafe"
    assert set(block.messages) == {BlockPolicy().message, "Call.", "No."}


def test_texts_by_place(tmp_path: Path) -> None:
    """In the file itself, in a file beside it, or in the shipped one; a file beside it comes first."""
    inline = read(tmp_path, "{message: {'*': {DE: Nein., '*': No.}}, place_header: X-Country}").block
    assert inline.at(inline.places(reader_of("de-DE"))).refusal(()).message == "Nein."
    assert (inline.refusal(()).message, inline.place_header) == ("No.", "x-country")
    shipped = read(tmp_path, "{message: {suicide_self_harm: 'file:crisis.yaml', '*': No.}}").block
    assert "116 123" in shipped.local["suicide_self_harm"].by_place["GB"]
    version = read(tmp_path, "{message: 'file:crisis.yaml'}").version
    (tmp_path / "crisis.yaml").write_text("texts: {'*': Mine., AT: Meins.}\n")
    own = read(tmp_path, "{message: 'file:crisis.yaml'}")
    assert own.block.local["*"].by_place == {"*": "Mine.", "AT": "Meins."}
    assert own.version != version  # the texts are part of the policy


@pytest.mark.parametrize(
    ("block", "rules", "expected"),
    [
        ("{message: {suicide_self_harm: a}}", RULES, 'block.message: needs a text for all other categories: "*"'),
        (
            "{message: {suicide_self_harn: a, '*': b}}",
            RULES,
            "block.message.suicide_self_harn: unknown category 'suicide_self_harn'; did you mean suicide_self_harm?",
        ),
        ("{message: {'*': {de: a}}}", RULES, 'block.message.*: needs a text for all other places: "*"'),
        (
            "{message: {'*': {german: a, '*': b}}}",
            RULES,
            'block.message.*.german: must be a language (de), a country (DE), both (de-DE) or "*"',
        ),
        (
            "{message: {suicide_self_harm: a, '*': b}}",
            "suicide_self_harm: {rewrite: {at: 0.4, how: replace}}, '*': {block: 0.5}",
            f"block.message.suicide_self_harm: {_NEVER_SHOWN}",
        ),
        (
            "{place_header: x-country}",
            RULES,
            f"block.place_header: {_ONE_TEXT}",
        ),
    ],
)
def test_mistakes(tmp_path: Path, block: str, rules: str, expected: str) -> None:
    """Each has its place and its mend."""
    assert mistakes(tmp_path, block, rules) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "crisis-at.yaml: cannot be read: No such file or directory"),
        ("texts: [a]", "crisis-at.yaml: needs `texts`, a mapping of texts by language and country"),
        ("text: {'*': a}", "crisis-at.yaml:1:1: text: unknown key; known: reviewed, sources, texts"),
        ("texts: {AT: a, AT: b}", "crisis-at.yaml:1:16: "),
    ],
)
def test_mistakes_in_a_file_of_messages(tmp_path: Path, text: str | None, expected: str) -> None:
    """They name the file and the place in it."""
    if text is not None:
        (tmp_path / "crisis-at.yaml").write_text(text)
    (mistake,) = mistakes(tmp_path, "{message: {'*': 'file:crisis-at.yaml'}}")
    assert mistake.startswith(f"block.message.*: {tmp_path}/{expected}")


def test_notes_on_rules_whose_effect_may_surprise(tmp_path: Path) -> None:
    """A replacement that only the model reads, and a rewrite that the block of `unsafe` mostly forestalls."""
    rewrite = "suicide_self_harm: {rewrite: {at: 0.5, how: replace}}, unsafe: {block: 0.5}"
    first, second = notes(read(tmp_path, "{message: b}", rewrite))
    assert first.startswith("requests with suicide_self_harm: the model reads '[removed by policy]' in their place")
    assert second.startswith("requests with suicide_self_harm: rewritten from 0.5, but `unsafe` blocks from 0.5")
    assert len([*notes(read(tmp_path, "{message: b}", rewrite.replace("0.5, how", "0.4, how")))]) == 1
    assert [*notes(read(tmp_path, "{message: b}"))] == []


def test_the_shipped_file(tmp_path: Path) -> None:
    """It is the same in `config`, to copy from, and every number in it is one whose source it names."""
    assert (Path(__file__).parents[2] / "config" / "messages" / "crisis.yaml").read_text() == crisis()
    texts = read(tmp_path, "{message: 'file:crisis.yaml'}").block.local["*"].by_place
    numbers = {"US": "988", "CA": "988", "fr-CA": "988", "GB": "116 123", "IE": "116 123", "DE": "0800 111 0 111"}
    numbers |= {"FR": "3114", "AU": "13 11 14"}
    numbers |= dict.fromkeys(("*", "de", "fr"), "https://findahelpline.com")
    assert texts.keys() == numbers.keys()
    assert {place for place, number in numbers.items() if number not in texts[place]} == set()


def test_what_can_be_no_file_of_messages(tmp_path: Path) -> None:
    """A pipe, a device, a folder and a name that no file has end in a message, and at once."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big.yaml").write_text("texts: {'*': No.}\n" + "#" * 1_000_000)
    for name, message in {
        "pipe": "is no file; write file:NAME",
        "/dev/zero": "is no file",
        ".": "is no file",
        "big.yaml": "has more than 1000000 bytes; is it the right file?",
        "a\\0b": "embedded null byte",
    }.items():
        (found,) = mistakes(tmp_path, f'{{message: "file:{name}"}}')
        assert message in found


def test_place_header_is_the_name_of_a_header(tmp_path: Path) -> None:
    """Else every refusal would end in an error."""
    for name in ("x country", "国"):
        found = mistakes(tmp_path, f"{{message: {{'*': {{DE: Nein., '*': No.}}}}, place_header: {name}}}")
        assert found == ["block.place_header: is not a valid header name"]


def test_the_name_of_a_file_is_no_message(tmp_path: Path) -> None:
    """Clients would read the name."""
    found = [
        mistakes(tmp_path, "{message: {suicide_self_harm: crisis.yaml, '*': No.}}"),
        mistakes(tmp_path, "{message: {'*': {de: 'file: de.yaml', '*': No.}}}"),
        mistakes(tmp_path, "{message: texts/no.yml}"),
    ]
    end = "in place of all texts by place"
    assert found == [
        [f"block.message.suicide_self_harm: is shown as it is; write file:crisis.yaml {end}"],
        [f"block.message.*.de: is shown as it is; write file:de.yaml {end}"],
        [f"block.message: is shown as it is; write file:texts/no.yml {end}"],
    ]
