"""The settings of valid documents; and no text at all makes the loader crash."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import ConfigError
from guardproxy.policy import Rule
from guardproxy.routing import Asked
from guardproxy.settings import load
from guardproxy.settings.yaml_tree import read as read_tree
from guardproxy.types import Category, Taxonomy
from tests.settings.kit import CATEGORIES, NAMES, RULES, mistakes, read
from tests.settings.test_mistakes import PLANTED

TOKENS = [
    *(
        "a",
        "b: ",
        "- ",
        "\n",
        "  ",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "# ",
        "&x ",
        "*x",
        "!!int ",
        "!",
        "%YAML 1.2\n",
        "| ",
    ),
    *(
        "'",
        '"',
        "\\u",
        '"\\Uffffffff"',
        '"\\ud800"',
        "\t",
        "\r",
        "\u2028",
        "\x85",
        "\ufeff",
        "\x00",
        "---\n",
        "...",
        "? ",
    ),
    *("<<: ", "null", "1e400", "9" * 50, "0.5", "policies: ", "default: ", "user: ", "guard: ", "${env:X}", "unsafe: "),
    *("routes: ", "block: ", "rewrite: ", "taxonomies: ", "upstream: ", "url: ", "on_opaque: ", "when: ", "> ", "~"),
]


def check_places(text: str) -> None:
    """Assert that every mistake is a single line with a position inside the text."""
    lines = re.split("\r\n|[\n\r\x85\u2028\u2029]", text.removeprefix("\ufeff"))
    for problem in mistakes(text):
        place = re.fullmatch(r"(\d+):(\d+): .+", problem)
        assert place, problem
        line, column = int(place[1]), int(place[2])
        assert 1 <= line <= len(lines)
        assert 1 <= column <= len(lines[line - 1]) + 1


@given(st.text())
def test_no_text_breaks_the_loader(text: str) -> None:
    """Any text gives either settings or mistakes with positions in it."""
    check_places(text)


@given(st.lists(st.sampled_from(TOKENS), max_size=30))
def test_no_yaml_breaks_the_loader(tokens: list[str]) -> None:
    """The same for texts of YAML's own characters and the format's keys."""
    check_places("".join(tokens))


@given(st.data())
def test_no_damage_breaks_the_loader(data: st.DataObject) -> None:
    """The same for a document with damaged stretches."""
    text = PLANTED
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        width = data.draw(st.integers(0, 20))
        text = text[:start] + data.draw(st.sampled_from(TOKENS)) + text[start + width :]
    check_places(text)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
KEYS = st.sampled_from(
    [*("version", "policies", "default", "user", "guard", "routes", "when", "options", "taxonomies"), "a"]
)
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=20)


@given(TREES)
def test_no_shape_breaks_the_loader(tree: object) -> None:
    """The same for well-formed documents of any shape."""
    check_places(json.dumps(tree))


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\ufeff", "{}", "null", " \n\n", "---\n# x\n...\n"])
def test_an_empty_file_is_a_mistake(text: str) -> None:
    """A file without any setting may not be written yet: it does not mean the built-in policy."""
    assert len(mistakes(text)) == 1
    assert "the file has no settings; write `version: 1` if the built-in settings are meant" in mistakes(text)[0]


def test_no_file_and_a_file_with_a_version_mean_the_same() -> None:
    """Without a file and with a version alone the built-in settings apply: six categories, and a block by unsafe."""
    defaults = load(None, {}, NAMES)
    for text in ("version: 1", "\ufeffversion: 1", "---\nversion: 1\n"):
        settings = read(text)
        assert (settings.server, settings.upstream, settings.guard) == (
            defaults.server,
            defaults.upstream,
            defaults.guard,
        )
        assert settings.policies.policies == defaults.policies.policies
        assert (settings.audit, settings.log, settings.paths) == (defaults.audit, defaults.log, defaults.paths)
    policy = defaults.policies.policies["default"]
    for side in (policy.user, policy.assistant):
        assert set(side.by_category) == {*CATEGORIES, "unsafe"}
        assert side.by_category["unsafe"][-1].action == "block"
    assert (policy.on_guard_error, policy.on_overload, policy.on_opaque["user"]) == ("error", "error", "flag")


def test_rules_become_thresholds() -> None:
    """Flag, rewrite and block become rules, {} exempts a category, and `unsafe` applies to sides without their own."""
    text = """
policies:
  default:
    user:
      violence_hate: {block: 0.5, flag: 0.2}
      sexual_content: {rewrite: {at: 0.4, how: redact}, block: 1}
      criminal_planning: {}
      unsafe: {flag: 0.1}
    assistant: {"*": {rewrite: {at: 0}}}
    unsafe: {block: 0.9}
"""
    policy = read(text).policies.policies["default"]
    assert policy.user.by_category == {
        "violence_hate": (Rule("flag", 0.2), Rule("block", 0.5)),
        "sexual_content": (Rule("rewrite", 0.4, "redact"), Rule("block", 1.0)),
        "criminal_planning": (),
        "unsafe": (Rule("flag", 0.1),),
    }
    assert policy.assistant.by_category == {"*": (Rule("rewrite", 0.0, "replace"),), "unsafe": (Rule("block", 0.9),)}


def test_every_part_of_a_policy_arrives() -> None:
    """Failures, scope, history, blocks, rewrites, streams and views reach the policy."""
    text = f"""
policies:
  default:
    {RULES}
    on_guard_error: allow
    on_overload: flag
    on_opaque: {{user: block}}
    judge: {{roles: [user, system], skip: [reasoning]}}
    history: {{unsafe_turns: block}}
    block: {{how: error, message: No., name_categories: true}}
    rewrite: {{replacement: X, marker: Y}}
    stream: {{mode: window, every: 50, exposure: 10}}
    views: [nfkc]
"""
    policy = read(text).policies.policies["default"]
    assert (policy.on_guard_error, policy.on_overload) == ("allow", "flag")
    assert policy.on_opaque == {"user": "block", "assistant": "flag"}
    assert (policy.judge.roles, policy.judge.skip) == (("user", "system"), ("reasoning",))
    assert policy.history == "block"
    assert (policy.block.how, policy.block.message, policy.block.name_categories) == ("error", "No.", True)
    assert (policy.rewrite.replacement, policy.rewrite.marker) == ("X", "Y")
    assert (policy.stream.mode, policy.stream.every, policy.stream.exposure) == ("window", 50, 10)
    assert policy.views == ("nfkc",)


def test_routes_choose_policies() -> None:
    """The first route whose conditions hold is taken, and `default` without one."""
    text = f"""
policies: {{default: {{{RULES}}}, lax: {{{RULES}}}, new: {{{RULES}}}}}
routes:
  - {{name: team, policy: lax, when: {{model: gpt-*, header: {{X-Team: a*}}}}, shadow: [new]}}
"""
    chosen = read(text).policies
    taken = chosen.choose(Asked(["/v1/chat/completions"], "gpt-4", "", {"x-team": "abc"}))
    assert (taken.route, taken.policy.name, [policy.name for policy in taken.shadow]) == ("team", "lax", ["new"])
    assert chosen.choose(Asked(["/v1/chat/completions"], "gpt-4", "", {})).policy.name == "default"


def test_own_taxonomy() -> None:
    """The guard judges by a taxonomy of the file, and policies use its ids."""
    text = f"""
guard: {{taxonomy: mine}}
taxonomies: {{mine: {{categories: [{{id: a, name: A, description: D, code: O1, examples: [x]}}, {{id: b}}]}}}}
policies: {{default: {{{RULES}, user: {{a: {{block: 0.5}}}}}}}}
"""
    assert read(text).taxonomy == Taxonomy("mine", (Category("a", "A", "D", "O1", ("x",)), Category("b", "")))


def test_versions_are_of_what_is_said() -> None:
    """Comments, order and number formats change no version; a threshold changes its policy's and the whole's."""
    first = read("policies: {default: {unsafe: {block: 0.5}, on_overload: flag}}")
    same = read("# same\npolicies:\n  default:\n    on_overload: flag\n    unsafe: {block: 0.50}\n")
    other = read("policies: {default: {unsafe: {block: 0.6}, on_overload: flag}}")
    assert first.version == same.version == first.policies.version != other.version
    versions = [settings.policies.policies["default"].version for settings in (first, same, other)]
    assert versions[0] == versions[1] != versions[2]


def test_secrets_come_from_the_environment() -> None:
    """Secrets are filled in, percent-encoded inside an address, and are part of neither the version nor the repr."""
    text = "upstream: {key: '${env:KEY}'}\naudit: {store: 'postgresql://u:${env:PASS}@h/d'}"
    settings = read(text, {"KEY": "sk-1", "PASS": "p@ss/word"})
    assert settings.upstream.key == "sk-1"
    assert settings.audit.store == "postgresql://u:p%40ss%2Fword@h/d"
    assert "sk-1" not in repr(settings)
    assert "p%40ss" not in repr(settings)
    assert settings.version == read(text, {"KEY": "sk-2", "PASS": "x"}).version
    whole = read("audit: {store: '${env:URL}'}", {"URL": "postgresql://u:a%2Fb@h/d"})
    assert whole.audit.store == "postgresql://u:a%2Fb@h/d"


def test_files(tmp_path: Path) -> None:
    """Mistakes name the file; a file that is missing or not UTF-8 is a mistake too."""
    path = tmp_path / "a.yaml"
    path.write_text("server: {port: x}")
    with pytest.raises(ConfigError, match=r"a\.yaml:1:16: server\.port: "):
        load(path, {}, NAMES)
    path.write_bytes(b"log: {}\n# gr\xfcn")
    with pytest.raises(ConfigError, match=r"a\.yaml:2:5: not UTF-8"):
        load(path, {}, NAMES)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "none.yaml", {}, NAMES)
    path.write_text("log: {level: debug}")
    assert load(path, {}, NAMES).log.level == "debug"


def test_plain_scalars_are_those_of_yaml_1_2() -> None:
    """Every plain scalar but null, true, false and decimal numbers is a string; a quoted scalar always is."""
    tree, problems = read_tree("[~, null, true, False, 1, -2, .5, 1e3, on, No, 1:30, 0x1F, '1', \"true\", .nan]")
    assert problems == []
    assert tree is not None
    expected = [None, None, True, False, 1, -2, 0.5, 1000.0, "on", "No", "1:30", "0x1F", "1", "true", ".nan"]
    assert tree.plain_value() == expected
