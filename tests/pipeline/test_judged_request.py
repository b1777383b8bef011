"""The judged turns of a request: what refuses it, what is dropped, what changes."""

from guardproxy.pipeline.exchange import JudgedTurn
from guardproxy.pipeline.judged_request import JudgedRequest, new_texts_of
from guardproxy.pipeline.turns import Turn
from guardproxy.types import ActionName, Decision, Edit, Message, Outcome, Part, Pass, Reason, Refuse, Replace, Role

ROLES: tuple[Role, ...] = ("user", "assistant", "user")
MESSAGES = [
    Message(role, (Part(f"messages[{index}].content", f"text {index}"), Part(f"messages[{index}].name", "name")))
    for index, role in enumerate(ROLES)
]
HISTORY, ANSWER, CURRENT = (Turn(index, index, message, current=index == 2) for index, message in enumerate(MESSAGES))


def judged(turn: Turn, outcome: Outcome, action: ActionName, category: str = "", error: str = "") -> JudgedTurn:
    """A judged turn whose decision has this action, for this category."""
    reasons = (Reason(category, 0.9, 0.5, action),) if category else ()
    return JudgedTurn(turn, None, Decision(action, "", reasons), outcome, error)


def request(*turns: JudgedTurn) -> JudgedRequest:
    """A request with these turns."""
    return JudgedRequest(turns, new_texts_of(turns))


def test_a_current_turn_refuses_first() -> None:
    """A refused current turn refuses the request in every mode; a turn of the history only with `block`."""
    old, new = Refuse("old"), Refuse("new")
    both = request(judged(HISTORY, old, "block"), judged(CURRENT, new, "block"))
    only_history = request(judged(HISTORY, old, "block"), judged(CURRENT, Pass(), "pass"))
    assert [refused and refused[0] for refused in map(both.refused, ("drop", "block", "allow"))] == [new, new, new]
    assert [refused and refused[0] for refused in map(only_history.refused, ("drop", "block", "allow"))] == [
        None,
        old,
        None,
    ]


def test_a_refused_exchange_of_the_history_is_dropped() -> None:
    """With `drop`, the refused turn and its answer are dropped; a refused current turn drops nothing."""
    found = request(judged(HISTORY, Refuse("no"), "block", "weapons"), judged(CURRENT, Refuse("no"), "block"))
    assert found.dropped(MESSAGES, "drop") == {0, 1}
    assert found.dropped(MESSAGES, "block") == frozenset()
    assert request(judged(CURRENT, Refuse("no"), "block")).dropped(MESSAGES, "drop") == frozenset()


def test_the_second_judgement_replaces_all_but_the_dropped_turns() -> None:
    """After the request was judged again without the dropped messages, only their turns are those of the first time."""
    first = request(judged(HISTORY, Refuse("no"), "block"), judged(CURRENT, Refuse("no"), "block"))
    again = request(judged(HISTORY, Pass(), "pass"), judged(CURRENT, Pass(), "flag", "hate"))
    merged = first.judged_again(frozenset({0, 1}), again)
    assert [(turn.turn.index, turn.decision.action) for turn in merged.turns] == [(0, "block"), (2, "flag")]
    assert (merged.decision.action, merged.current_changes) == ("flag", False)


def test_changes_are_named() -> None:
    """The edits hold the new text of every rewritten part; the categories are those of all turns that change."""
    whole = Replace((Edit("messages[2].content", "new"),), whole=True)
    found = request(
        judged(HISTORY, Refuse("no"), "block", "weapons"),
        judged(ANSWER, Pass(), "flag", "hate"),
        judged(CURRENT, whole, "rewrite", "privacy"),
    )
    assert found.edits == [Edit("messages[2].content", "new"), Edit("messages[2].name", "")]
    assert found.categories(frozenset({0, 1})) == ("privacy", "weapons", "hate")
    assert found.categories(frozenset()) == ("privacy",)


def test_what_is_recorded() -> None:
    """Current turns are recorded; turns of the history only if they did not pass or the guard failed."""
    found = request(
        judged(HISTORY, Pass(), "pass"), judged(ANSWER, Pass(), "pass", error="late"), judged(CURRENT, Pass(), "pass")
    )
    assert [turn.turn.index for turn in found.to_record] == [1, 2]
    assert found.failed


def test_one_changed_current_turn_is_a_change() -> None:
    """Of several current turns one that is refused or rewritten is enough; a turn of the history is not."""
    other = Turn(1, 1, MESSAGES[1])
    changed, unchanged = judged(CURRENT, Refuse("no"), "block"), judged(other, Pass(), "flag")
    assert request(unchanged, changed).current_changes
    assert not request(unchanged, unchanged).current_changes
    assert not request(judged(HISTORY, Refuse("no"), "block"), unchanged).current_changes
