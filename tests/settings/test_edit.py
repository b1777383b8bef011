"""Rules written into the text of a configuration file: what they do not name stays, comments always."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.app import catalogue
from guardproxy.console.thresholds import CategoryRules, Edits, change_yaml, with_edits
from guardproxy.errors import ConfigError
from guardproxy.settings import load_text, with_rules

TEXT = """# top
version: 1
policies:
  default:
    # the preset
    preset: balanced
    user:
      violence_hate:
        flag: 0.3   # mark
        # from the review of May
        block: 0.6  # strong
      # about sex
      sexual_content: {block: 0.5, with_unsafe: 0.4}
      # others
      jailbreak:
        rewrite: {at: 0.7, how: redact, with_unsafe: 0.6}
        block: 0.9
      # tail of user
    assistant:
      violence_hate: {rewrite: {at: 0.5, how: redact}}
    # overall
    unsafe: {block: 0.9}
"""
COMMENTS = [
    "# top",
    "# the preset",
    "# from the review of May",
    "# about sex",
    "# others",
    "# tail of user",
    "# overall",
]


@pytest.mark.parametrize(
    ("rules", "gone", "added"),
    [
        ("user: {violence_hate: {flag: null, block: 0.55}}", ["flag: 0.3"], ["block: 0.55"]),
        ("user: {violence_hate: {block: null}}", ["block: 0.6"], ["flag: 0.3   # mark"]),
        ("user: {violence_hate: {flag: null, block: null}}", ["flag: 0.3", "block: 0.6"], ["violence_hate: {}"]),
        ("user: {violence_hate: null, sexual_content: null}", ["flag: 0.3", "sexual_content"], []),
        ("user: {jailbreak: {rewrite: {with_unsafe: null}}}", ["with_unsafe: 0.6"], ["{at: 0.7, how: redact}"]),
        ("assistant: {unsafe: {flag: null, block: 0.95}}", [], ["unsafe: {block: 0.95}"]),
    ],
)
def test_null_removes_and_comments_stay(rules: str, gone: list[str], added: list[str]) -> None:
    """A threshold, a condition or a whole category goes; the comments around it stay in their order."""
    new = with_rules(TEXT, "default", rules)
    assert [line.strip() for line in new.splitlines() if line.strip().startswith("#")] == COMMENTS
    assert [text for text in gone if text in new] == []
    assert [text for text in added if text not in new] == []


CONDITIONS = st.one_of(st.none(), st.just(1.0), st.floats(1e-6, 1))
PROBABILITIES = st.one_of(st.just(0.0), CONDITIONS)
RULES = st.builds(
    CategoryRules,
    PROBABILITIES,
    PROBABILITIES,
    PROBABILITIES,
    CONDITIONS,
    st.none(),
    st.sampled_from(["replace", "redact"]),
)


@settings(deadline=None)
@given(st.dictionaries(st.tuples(st.sampled_from(["user", "assistant"]), st.sampled_from(["violence_hate"])), RULES))
def test_what_is_written_is_what_was_shown(rules: dict[tuple[str, str], CategoryRules]) -> None:
    """Any rules of a category that are valid come back from the file with all their digits."""
    before = load_text(TEXT, "a.yaml", {}, catalogue()).policies.policies["default"]
    edits = Edits(rules)  # type: ignore[arg-type]
    text = with_rules(TEXT, "default", change_yaml(edits)) if rules else TEXT
    wanted = with_edits(before, edits)
    try:
        found = load_text(text, "a.yaml", {}, catalogue()).policies.policies["default"]
    except ConfigError as error:
        assert "unreachable" in str(error) or "has no effect" in str(error)  # noqa: PT017 - other rules are valid
        return
    assert (found.user, found.assistant) == (wanted.user, wanted.assistant)
