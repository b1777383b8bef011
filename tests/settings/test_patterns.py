"""`patterns` of a guard: every mistake has its line, and files of words and hashes are read."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from guardproxy.app import catalogue
from guardproxy.app.finders import reaches
from guardproxy.app.guards import guard_name, traits
from guardproxy.app.languages import languages_read
from guardproxy.errors import ConfigError
from guardproxy.patterns import Reach
from guardproxy.settings import Settings, load, load_text

RULES = "policies: {default: {unsafe: {block: 0.5}}}\n"


def read(patterns: str, *, more: str = "") -> Settings:
    """The settings with these patterns of a single guard; `more` are other lines of the guard."""
    return load_text(
        f"version: 1\nguard:\n  family: patterns\n{more}  patterns: {patterns}\n{RULES}", "f.yaml", {}, catalogue()
    )


def mistakes(patterns: str, *, more: str = "") -> list[str]:
    """The mistakes, with line and column."""
    with pytest.raises(ConfigError) as raised:
        read(patterns, more=more)
    return [problem.removeprefix("f.yaml:") for problem in raised.value.problems]


@pytest.mark.parametrize(
    ("patterns", "mistake"),
    [
        ("{Names: {words: [a]}}", "4:14: guard.patterns.Names: must be lower-case letters"),
        ("{unsafe: {words: [a]}}", "4:14: guard.patterns.unsafe: must be lower-case letters"),
        ("{jailbreak: {words: [a]}}", "4:14: guard.patterns.jailbreak: must be lower-case letters"),
        ("{a: {}}", "4:14: guard.patterns.a: looks for nothing; add one of words, regexes, secrets, sha256"),
        ("{a: {words: []}}", "4:14: guard.patterns.a: looks for nothing"),
        ("{}", "4:13: guard.patterns: must not be empty"),
        (
            "{a: {words: b}}",
            "4:25: guard.patterns.a.words: must be a list, not 'b'; put it in brackets, or write file:NAME",
        ),
        ("{a: {sha256: b}}", "4:26: guard.patterns.a.sha256: must be a list, not 'b'"),
        (
            "{a: {secrets: jwt}}",
            "4:27: guard.patterns.a.secrets: must be all or a list of formats, not 'jwt'; put it in",
        ),
        ("{a: {secrets: [jtw]}}", "4:28: guard.patterns.a.secrets[0]: unknown format 'jtw'; use all, or some of"),
        ("{a: {words: [b, c++]}}", "4:29: guard.patterns.a.words[1]: 'c++' must begin and end with a letter or digit"),
        ("{a: {words: [b, 3]}}", "4:29: guard.patterns.a.words[1]: must be a string, not 3; quote it"),
        ("{a: {regexes: ['b', '(']}}", "4:33: guard.patterns.a.regexes[1]: is no expression of RE2: missing )"),
        (
            "{a: {regexes: ['b.+']}}",
            "4:28: guard.patterns.a.regexes[0]: may match a text of any length; write {1,40} for +",
        ),
        ("{a: {words: [b], max_length: 9}}", "4:30: guard.patterns.a.max_length: has no effect without regexes"),
        ("{a: {words: [b], max_words: 9}}", "4:30: guard.patterns.a.max_words: has no effect without sha256"),
        ("{a: {words: [b], probability: 0}}", "4:43: guard.patterns.a.probability: must be more than 0, not 0"),
        ("{a: {words: [c], word: [b]}}", "4:30: guard.patterns.a.word: unknown key; did you mean words?"),
        (
            "{a: {words: 'file:no.txt'}}",
            "4:25: guard.patterns.a.words: no.txt: cannot be read: No such file or directory",
        ),
    ],
)
def test_mistakes_have_their_place(patterns: str, mistake: str) -> None:
    """The first mistake of each list, at its line and column."""
    assert mistakes(patterns)[0].startswith(mistake)


@pytest.mark.parametrize(
    "option", ["model: embedded", "threads: 2", "timeout_s: 3", "languages: [en]", "options: {a: 1}"]
)
def test_options_of_models_have_no_effect(option: str) -> None:
    """Patterns need no model and read every language."""
    (mistake,) = mistakes("{a: {words: [b]}}", more=f"  {option}\n")
    assert mistake.endswith("has no effect, because patterns need no model; remove it")


def test_the_section_belongs_to_its_family() -> None:
    """Without the family it has no effect; without the section the family looks for nothing."""
    for guard, message in {
        "{patterns: {a: {words: [b]}}}": "has no effect with the family classifier; write family: patterns",
        "{family: patterns}": "is missing; list what the guard looks for",
    }.items():
        with pytest.raises(ConfigError) as raised:
            load_text(f"version: 1\nguard: {guard}\n{RULES}", "f.yaml", {}, catalogue())
        assert message in str(raised.value)


def test_rules_may_name_the_categories_of_all_guards() -> None:
    """A combination has the union; a category that no guard looks for is unknown."""
    text = """
version: 1
guard: {all: [embedded, house]}
guards: {house: {family: patterns, patterns: {names: {words: [bluebird]}, keys: {secrets: [npm_token]}}}}
policies: {default: {preset: balanced, assistant: {names: {block: 0.5}, keyz: {block: 0.5}}}}
"""
    settings = load_text(text.replace("keyz", "keys"), "f.yaml", {}, catalogue())
    assert reaches(settings) == {"names": Reach(words=1), "keys": Reach(unspaced=41)}
    assert (guard_name(settings), traits(settings).has_model) == ("embedded+house", True)
    assert languages_read(settings) == {"en"}
    with pytest.raises(ConfigError, match="unknown category 'keyz'; did you mean keys"):
        load_text(text, "f.yaml", {}, catalogue())


def test_a_single_guard_without_a_model() -> None:
    """It has the name of its family, reads every language, and the built-in policy is for another guard."""
    settings = read("{a: {words: [b]}}")
    assert (guard_name(settings), traits(settings).has_model, languages_read(settings)) == ("patterns", False, None)
    assert not settings.policies.policies["default"].thread.turns
    with pytest.raises(
        ConfigError, match="policies: is missing; add it, because the built-in policy is for another guard"
    ):
        load_text("version: 1\nguard: {family: patterns, patterns: {a: {words: [b]}}}", "f.yaml", {}, catalogue())


def test_lists_come_from_files(tmp_path: Path) -> None:
    """One entry on each line; the version of the configuration depends on them, and mistakes name their entry."""
    digest = hashlib.sha256(b"osprey").hexdigest()
    file = tmp_path / "f.yaml"
    file.write_text(
        f"version: 1\nguard: {{family: patterns, patterns: {{a: {{words: file:w.txt, sha256: file:h.txt}}}}}}\n{RULES}"
    )
    (tmp_path / "w.txt").write_text("# names\n\nbluebird\n falcon nine \n")
    (tmp_path / "h.txt").write_text(f"{digest}\n")
    settings = load(file, {}, catalogue())
    assert settings.guard.patterns is not None
    one: Any = settings.guard.patterns["a"]
    assert (one.words, one.sha256) == (("bluebird", "falcon nine"), (digest,))
    (tmp_path / "w.txt").write_text("bluebird\nc++\n")
    with pytest.raises(ConfigError, match=r"f\.yaml:2:\d+: guard\.patterns\.a\.words\[1\]: 'c\+\+' must begin"):
        load(file, {}, catalogue())
    (tmp_path / "w.txt").write_text("bluebird\n")
    assert load(file, {}, catalogue()).version != settings.version
    for content, message in ((b"# none\n", "has no line; write one on each line"), (b"\xff", "not UTF-8")):
        (tmp_path / "w.txt").write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            load(file, {}, catalogue())
