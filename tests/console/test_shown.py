"""How texts and numbers are shown, charts, and policies with other thresholds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.calibration import Calibration
from guardproxy.console import shown
from guardproxy.console.charts import Column, histogram, lines, round_up, stacked
from guardproxy.console.panels import scores_of
from guardproxy.console.parts import LoadedTurns
from guardproxy.console.record import bars_of
from guardproxy.console.thresholds import (
    PREFIX,
    Edits,
    query_of_edits,
    read_edits,
    rules_of,
    with_edits,
    yaml_difference,
)
from guardproxy.plaintext import is_visible
from guardproxy.policy import Policy, Rule, SideRules
from guardproxy.replay import stored_turn
from guardproxy.sinks.shared import to_dict
from guardproxy.types import Decision, Finding, Reason, Verdict
from tests.console.kit import policies
from tests.sinks.kit import record

TEXTS = st.text(st.characters(), max_size=80)


@given(TEXTS, st.integers(0, 80), st.integers(0, 80))
def test_pieces_keep_the_text(text: str, start: int, length: int) -> None:
    """The pieces are the text in its order; what does not show has the name of its code point."""
    span = (min(start, len(text)), min(start + length, len(text)))
    found = shown.pieces(text, span)
    joined = "".join(chr(int(piece.text.removeprefix("U+"), 16)) if piece.hidden else piece.text for piece in found)
    assert joined == text
    marked = "".join(
        chr(int(piece.text.removeprefix("U+"), 16)) if piece.hidden else piece.text for piece in found if piece.marked
    )
    assert marked == text[span[0] : span[1]]
    assert all(c in "\n\t" or is_visible(c) for piece in found for c in piece.text)


@given(TEXTS, st.integers(0, 80), st.integers(0, 80), st.integers(4, 40))
def test_a_long_text_is_shown_in_parts(text: str, start: int, length: int, most: int) -> None:
    """What is left out is counted, no more than `most` is shown, and the span's beginning is."""
    span = (min(start, len(text)), min(start + length, len(text)))
    found = shown.pieces(text, span, most)
    at = seen = 0
    for piece in found:
        size = piece.left_out or (1 if piece.hidden else len(piece.text))
        assert piece.left_out or piece.hidden or piece.text == text[at : at + size]
        seen += 0 if piece.left_out else size
        at += size
    assert at == len(text)
    assert seen == min(len(text), most if len(text) <= most or span[0] <= most // 2 else 2 * (most // 2))
    assert span[0] >= span[1] or any(piece.marked for piece in found)


def test_numbers() -> None:
    """Numbers have as many digits as they need."""
    assert [shown.chance(p) for p in (0.0, 0.0004, 0.05, 0.5, 0.9996, 1.0)] == [
        *("0.000", "<0.001", "0.050", "0.50", ">0.999", "1.00"),
    ]
    assert [shown.seconds(s) for s in (0.0021, 0.034, 1.26, 31.4)] == ["2.1 ms", "34 ms", "1.3 s", "31 s"]
    assert [shown.share(1, 3), shown.share(1, 300), shown.share(0, 5), shown.share(0, 0)] == [
        "33 %",
        "0.3 %",
        "0 %",
        "",
    ]
    assert shown.excerpt("a\nb\u202ec", 20) == "a b[U+202E]c"
    assert shown.excerpt("word " * 9, 9) == "word word…"


def test_charts() -> None:
    """Stacks reach their counts, lines leave unknown values out, and scores fall into their bins."""
    chart = stacked([Column("a", {"block": 3, "pass": 1}, "/x"), Column("b", {})], ["pass", "block"], 100, 50)
    assert [(box.kind, round(box.height), box.link) for box in chart.boxes] == [("pass", 10, "/x"), ("block", 30, "/x")]
    assert [round_up(n) for n in (0, 1, 3, 7, 80, 101)] == [1, 1, 5, 10, 100, 200]
    assert [len(points) for _, points in lines(["a", "b"], {"p50": [0.1, None]}).lines] == [1]
    assert histogram({"right": [0.0, 0.99, 1.0]}, 2) == {"right": [1, 2]}


def edited(policy: Policy, **values: str) -> tuple[Policy, Edits]:
    """The policy under an address with `side__category__part` set to values, and the edits."""
    query = {PREFIX + key.replace("__", ":").replace("any", "*"): [value] for key, value in values.items()}
    edits = read_edits(policy, query, {"violence_hate", "sexual_content", "*", "unsafe"}, {"replace", "redact"})
    return with_edits(policy, edits), edits


def test_thresholds() -> None:
    """An address changes thresholds of rules, and the YAML names the changed categories only."""
    policy = policies().policies["default"]
    new, edits = edited(policy, user__violence_hate__block="0.25")
    assert [(place, rules.block) for place, rules in edits.rules.items() if rules] == [
        (("user", "violence_hate"), 0.25)
    ]
    assert new.version != policy.version
    assert rules_of(new)["user", "violence_hate"].block == 0.25
    assert list(edits.mistakes) == [f"{PREFIX}user:violence_hate:flag"]  # above the block, so it can never act
    yaml, difference = yaml_difference(policy, new, edits)
    assert yaml == ["policies:", "  default:", "    user:", "      violence_hate: {flag: 0.3, block: 0.25}"]
    assert difference[-2:] == ["-      violence_hate: {flag: 0.3, block: 0.6}", f"+{yaml[-1]}"]


@pytest.mark.parametrize("value", ["much", "1.5", "-1", "nan", "inf", ""])
def test_a_value_that_is_no_probability_changes_nothing(value: str) -> None:
    """It stays in the address and has its mistake beside the field."""
    policy = policies().policies["default"]
    new, edits = edited(policy, user__violence_hate__block=value)
    key = f"{PREFIX}user:violence_hate:block"
    assert (new, edits.unreadable, list(edits.mistakes)) == (policy, {key: value}, [key])
    assert query_of_edits(policy, edits) == {key: [value]}


@pytest.mark.parametrize("key", ["t:no:x:y", "t:user:unknown:block", "t:user:violence_hate:ban", "t:"])
def test_a_key_that_sets_nothing_is_an_error(key: str) -> None:
    """A side, a category or a part that does not exist."""
    with pytest.raises(ValueError, match="no such rule"):
        read_edits(policies().policies["default"], {key: ["0.5"]}, {"violence_hate"}, {"replace"})


def test_yaml_of_rewrites_and_second_thresholds() -> None:
    """A rewrite keeps its way, a second threshold stays."""
    policy = policies().policies["default"]
    new, edits = edited(policy, assistant__any__rewrite="0.4")
    assert yaml_difference(policy, new, edits)[0][-1] == '      "*": {rewrite: {at: 0.4, how: redact}}'
    new, edits = edited(policy, user__sexual_content__block="0.7")
    assert yaml_difference(policy, new, edits)[0][-1] == "      sexual_content: {block: 0.7, with_unsafe: 0.4}"


def test_what_tools_returned_is_shown_beside_its_own_rules() -> None:
    """A finding in the results of tools has the rules of `tool`, and one of the user's text those of `user`."""
    user, tool = Rule("block", 0.5), Rule("flag", 0.3)
    overall = Rule("block", 0.9)
    verdict = Verdict(
        0.1, (Finding("harm", 0.4), Finding("harm", 0.45, view="tool"), Finding("unsafe", 0.95, view="tool")), "g"
    )
    reasons = (Reason("harm", 0.45, 0.3, "flag"), Reason("unsafe", 0.95, 0.9, "block"))
    rules, of_tools = SideRules({"harm": (user,)}), SideRules({"*": (tool,), "unsafe": (overall,)})
    bars = bars_of(verdict, Decision("block", "", reasons), rules, {}, of_tools)
    assert [(bar.category, bar.probability, bar.rules, bar.reached) for bar in bars] == [
        ("unsafe", 0.1, (), ""),
        ("unsafe", 0.95, (overall,), "block"),
        ("harm", 0.45, (tool,), "flag"),
        ("harm", 0.4, (user,), ""),
    ]


def test_the_charts_of_a_side_have_what_its_rules_decide_about() -> None:
    """What tools returned counts unless it has rules of its own; its P(unsafe) is no category."""
    verdict = Verdict(
        0.1, (Finding("harm", 0.2), Finding("harm", 0.7, view="tool"), Finding("unsafe", 0.9, view="tool")), "g"
    )
    loaded = LoadedTurns([stored_turn(1, to_dict(record(1, verdict=verdict)))], {}, 0.0)
    for category, with_tools, without in (("harm", 0.7, 0.2), ("unsafe", 0.9, 0.1), ("*", 0.7, 0.2)):
        for tools, expected in ((True, with_tools), (False, without)):
            scores = scores_of(loaded, Calibration(), loaded.turns[0].side, category, (), tools=tools)
            assert scores["unlabelled"] == [expected]


def test_changed_thresholds_leave_the_rules_for_tools() -> None:
    """The page has no fields for them."""
    policy = Policy("default", "v", SideRules({}), SideRules({}), tool=SideRules({"harm": (Rule("block", 0.5),)}))
    edits = read_edits(policy, {f"{PREFIX}user:harm:block": ["0.2"]}, {"harm"}, ())
    edited = with_edits(policy, edits)
    assert edited.tool == policy.tool
    assert edited.user.by_category["harm"][0].threshold == 0.2
