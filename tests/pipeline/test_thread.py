"""Which texts are joined to a thread, and what of them is read."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.pipeline.thread import UserTurn, joined_text, own_text, thread_of, threads, user_turns, without
from guardproxy.policy import JudgeScope, Policy, SideRules, ThreadPolicy
from guardproxy.types import Message, Part
from tests.pipeline.test_turns import chat

POLICY = Policy("p", "v", SideRules({}), SideRules({}), thread=ThreadPolicy(turns=3))
ALL = without(lambda _: False)


def turn(place: int, *texts: str) -> UserTurn:
    """A turn of the user at this place."""
    return UserTurn(place, place + 1, place, texts)


def found(turns: list[UserTurn], most: int = 3) -> list[tuple[str, ...]]:
    """The threads of the turns."""
    return [texts for _, texts in threads(turns, most, ALL)]


def test_the_turns_of_the_user() -> None:
    """Messages of the user with a text, turn by turn; tool and system messages belong to no one."""
    messages = chat("suatuauu")
    messages[4] = Message("user", (Part("x", "result", "tool_result"),))
    assert user_turns(messages, JudgeScope()) == [
        UserTurn(0, 6, 1, ("u1",)),
        UserTurn(6, 8, 7, ("u6", "u7")),
    ]
    assert user_turns(chat("aa"), JudgeScope()) == []


def test_what_the_policy_does_not_judge_is_in_no_turn() -> None:
    """Skipped kinds, opaque parts and results of tools are left out, and white space around the rest."""
    parts = (
        Part("a", " one "),
        Part("b", "voice", "transcript"),
        Part("c", "", "opaque"),
        Part("d", "r", "tool_result"),
    )
    (first,) = user_turns([Message("user", parts)], JudgeScope(skip=("transcript",)))
    assert first.texts == ("one",)
    assert own_text(Message("user", parts[3:])) == ""


@pytest.mark.parametrize(("most", "last"), [(2, ("c",)), (3, ("b", "c")), (4, ("a", "b", "c")), (9, ("a", "b", "c"))])
def test_a_thread_has_so_many_turns(most: int, last: tuple[str, ...]) -> None:
    """The current turn is one of them; the first turn has no thread."""
    given = [turn(place, text) for place, text in enumerate("abcd")]
    assert found(given, most)[0] == ()
    assert found(given, most)[-1] == last


def test_repeated_turns_push_no_other_turn_out() -> None:
    """A text counts where it was said last, and a turn that only repeats has no thread."""
    said = [turn(place, text) for place, text in enumerate(["harm", "ok", "ok", "ok", "ok", "end"])]
    assert found(said)[-1] == ("harm", "ok")
    assert found([turn(0, "a"), turn(1, "a"), turn(2, "a")]) == [(), (), ()]


def test_earlier_messages_of_the_same_turn_are_joined_as_well() -> None:
    """They stand between the earlier turns and the last message; without an earlier turn there is no thread."""
    assert found([turn(0, "a"), turn(1, "b", "c")]) == [(), ("a", "b")]
    assert found([turn(0, "a", "b")]) == [()]


def test_later_turns_are_joined_with_what_is_kept() -> None:
    """What `kept` gives takes the place of the turn's own texts; nothing takes no place."""
    given = [turn(place, text) for place, text in enumerate("abcd")]
    texts = {0: ["A"], 1: [], 2: ["C"], 3: []}
    assert [thread for _, thread in threads(given, 3, lambda one: texts[one.index])] == [(), ("A",), ("A",), ("A", "C")]


def test_the_thread_of_a_last_message() -> None:
    """Only a message of the user has one, and only if the policy wants it; excluded texts are left out."""
    messages = chat("uauau")
    assert thread_of(messages, POLICY, lambda _: False) == ("u0", "u2")
    assert thread_of(messages, POLICY, {"u2"}.__contains__) == ("u0",)
    assert thread_of(messages[:-1], POLICY, lambda _: False) == ()
    assert thread_of(messages, replace(POLICY, thread=ThreadPolicy(turns=1)), lambda _: False) == ()


def test_a_long_text_gives_its_beginning_and_its_end() -> None:
    """Short texts stay whole, and what they leave of their share goes to longer ones."""
    long = "b" * 50 + "m" * 100 + "e" * 50
    assert joined_text(["harm", long, "half"], 51) == f"harm\n{'b' * 20}\n{'e' * 20}\nhalf"
    assert joined_text([long, "x" * 300], 41) == f"{'b' * 10}\n{'e' * 9}\n{'x' * 10}\n{'x' * 9}"
    assert joined_text(["a", "b"], 1) == ""


@given(
    st.lists(st.text(st.characters(codec="ascii", exclude_characters="\n"), min_size=1, max_size=40), max_size=6),
    st.integers(1, 90),
)
def test_a_joined_text_has_its_bound(texts: list[str], most: int) -> None:
    """It is at most so long, whole if all texts fit, and no text is left out for another if there is room for each."""
    joined = joined_text(texts, most)
    assert len(joined) <= most
    whole = "\n".join(texts)
    assert (joined == whole) is (len(whole) <= most)
    if most >= 4 * len(texts) and texts:
        assert joined[0] == texts[0][0]
        assert joined[-1] == texts[-1][-1]
