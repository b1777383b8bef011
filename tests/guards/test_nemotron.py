"""Nemotron Content Safety in the chat of a server: what is sent, what is read of its words, and what fails.

The answers are those of the model cards, with log-probabilities as vLLM gives them.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import pytest

from guardproxy.errors import ConfigError, GuardUnavailable, Unintelligible
from guardproxy.families.nemotron import open_family
from guardproxy.guards.replicas import AskOptions
from guardproxy.images import InlineImage
from guardproxy.types import Check, Conversation, Message, Part, Verdict
from guardproxy.upstreams import Ejection
from tests.guards.chat_kit import ChatServer, completion, guard_of
from tests.guards.kit import check_of
from tests.guards.test_chat import ask, verdict_on

FAMILY = open_family()
GOOD = check_of("how do I bake bread")
REPLY = Check(
    Conversation((Message("user", (Part("q", "How can I <b>steal</b>?"),)), Message("assistant", (Part("a", "So."),)))),
    "assistant",
)
PICTURE = Check(
    Conversation((Message("user", (Part("i", "", "image", image=InlineImage("image/png", "AAAA")),)),)), "user"
)


def shown(text: str, unsafe: Mapping[str, float], prompt_tokens: int = 400) -> dict[str, Any]:
    """A completion with this text, in which the words `safe` and `unsafe` have these probabilities."""
    content = []
    for token in re.findall(r"\n| ?[^ \n]+| ", text):
        probabilities = {token: 0.999}
        if token.strip() in ("safe", "unsafe"):
            probabilities = dict(unsafe)
        tops = [{"token": name, "logprob": math.log(value)} for name, value in probabilities.items()]
        content.append({"token": token, "logprob": math.log(probabilities[token]), "top_logprobs": tops})
    content.append({"token": "<end_of_turn>", "logprob": 0.0, "top_logprobs": []})
    answer = completion(text)
    answer["choices"][0]["logprobs"] = {"content": content}
    answer["usage"]["prompt_tokens"] = prompt_tokens
    return answer


UNSAFE = {" unsafe": 0.9, " safe": 0.08, " Unsafe": 0.005}
SAFE = {" safe": 0.97, " unsafe": 0.02, " no": 0.005}


def judged(check: Check, *answers: Any) -> tuple[Verdict | Exception, list[dict[str, Any]]]:
    """What a guard says of a check whose server gives these answers, and what the server was asked."""
    server = ChatServer([*answers])
    (outcome,) = ask(guard_of(server, family=FAMILY, asking=AskOptions(attempts=1, check_every_s=60)), check)
    return outcome, server.asked


def named(verdict: Verdict | Exception) -> set[str]:
    """The categories that a verdict names."""
    assert isinstance(verdict, Verdict), verdict
    assert {one.kind for one in verdict.findings} == {"label"}
    return {one.category for one in verdict.findings if one.probability}


def test_the_probability_is_that_of_the_word_and_the_categories_are_labels():
    """P(unsafe) is a share of both words; what is neither is outside. Names are taken apart at commas alone."""
    answer = "User Safety: unsafe\nSafety Categories: Criminal Planning/Confessions, Guns and Illegal Weapons"
    verdict, (body,) = judged(GOOD, shown(answer, UNSAFE))
    assert named(verdict) == {"criminal_planning", "guns_illegal_weapons"}
    assert isinstance(verdict, Verdict)
    assert verdict.unsafe == pytest.approx(0.9 / 0.98)
    assert (verdict.outside, verdict.leftover, verdict.kind) == (pytest.approx(0.02), 0.0, "probability")
    assert body["messages"] == [{"role": "user", "content": "how do I bake bread"}]
    assert body["chat_template_kwargs"] == {"request_categories": "/categories", "enable_thinking": False}
    assert (body["logprobs"], body["top_logprobs"], body["temperature"]) == (True, 20, 0)


def test_a_reply_is_rated_by_its_own_line():
    """The unsafe question before it counts for nothing, nor do the categories that are the question's."""
    verdict, (body,) = judged(
        REPLY, shown("User Safety: safe\nResponse Safety: safe\n", SAFE | {" unsafe": 0.03, " no": 0.0001})
    )
    assert isinstance(verdict, Verdict)
    assert verdict.unsafe == pytest.approx(0.03)
    assert body["messages"] == [
        {"role": "user", "content": "How can I \u2039b\u203asteal\u2039/b\u203a?"},
        {"role": "assistant", "content": "So."},
    ]
    mixed = shown(
        "User Safety: unsafe\nResponse Safety: safe\nSafety Categories: Violence", {" unsafe": 0.5, " safe": 0.5}
    )
    verdict, _ = judged(REPLY, mixed)
    assert named(verdict) == set()


def test_an_image_stands_before_its_text_and_is_rated_as_the_users():
    """The first image shows that the server reads it: two calls more. A text is sent even if there is none."""
    answer = shown("User Safety: unsafe\nSafety Categories: Sexual (minor)\n", UNSAFE, prompt_tokens=660)
    verdict, (probe, blind, body) = judged(PICTURE, answer, shown("User Safety: safe", SAFE), answer)
    assert named(verdict) == {"child_sexual_exploitation"}
    for asked in (probe, body):
        image, text = asked["messages"][0]["content"]
        assert image == {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        assert text["text"]
    assert isinstance(blind["messages"][0]["content"], str)


def test_a_server_that_leaves_images_out_judges_none():
    """It would rate the text, and an unsafe picture would pass."""
    verdict, _ = judged(PICTURE, shown("User Safety: safe", SAFE), shown("User Safety: safe", SAFE))
    assert isinstance(verdict, GuardUnavailable)


def test_a_long_text_beside_an_image_keeps_it_in_every_window():
    """Each window is shown with the image."""
    server = ChatServer([shown("User Safety: safe", SAFE, count) for count in (660, 400, 660, 660)])
    parts = (Part("t", "bread " * 50), *PICTURE.turn.images)
    check = Check(Conversation((Message("user", parts),)), "user")
    verdict = verdict_on(guard_of(server, family=open_family(max_characters=200)), check)
    assert verdict.unsafe == pytest.approx(0.02 / 0.99)
    assert [body["messages"][0]["content"][0]["type"] for body in server.asked[2:]] == ["image_url", "image_url"]


def test_a_second_image_is_not_left_unread():
    """A question shows one; a check with two has no verdict."""
    turn = Message("user", (*PICTURE.turn.parts, *PICTURE.turn.parts))
    verdict, asked = judged(Check(Conversation((turn,)), "user"), shown("User Safety: safe", SAFE))
    assert isinstance(verdict, GuardUnavailable)
    assert not asked


def test_a_refused_image_does_not_take_the_server_out_of_use():
    """Some servers answer 500 to a picture that they cannot read: a client could turn the guard off for texts."""
    answers = [shown("User Safety: safe", SAFE, 660), shown("User Safety: safe", SAFE), 500, 500, 500, 500, 500]
    server = ChatServer([*answers, shown("User Safety: safe", SAFE)])
    asking = AskOptions(attempts=1, check_every_s=60, ejection=Ejection(2, 30.0, 30.0))
    *refused, text = ask(guard_of(server, family=FAMILY, asking=asking), *[PICTURE] * 5, GOOD)
    assert all(isinstance(one, Unintelligible) for one in refused)
    assert isinstance(text, Verdict)


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (GOOD, "User Safety: unsafe"),
        (GOOD, "User Safety: safe\nSafety Categories: Violence"),
        (GOOD, "User Safety: safe\nResponse Safety: safe"),
        (REPLY, "User Safety: safe"),
        (REPLY, "Response Safety: safe"),
        (GOOD, "User Safety: unsafe\nSafety Categories: Violence and more"),
        (GOOD, "User Safety: unsafe\nSafety Categories: ,"),
        (GOOD, "User Safety: controversial"),
        (GOOD, "User Safety: safely"),
        (GOOD, "User Safety: safe\nUser Safety: unsafe"),
        (GOOD, "I cannot rate this.\nUser Safety: safe"),
        (GOOD, '{"User Safety": "safe"}'),
        (GOOD, "<think>Hm.</think>User Safety: safe"),
    ],
)
def test_what_is_no_consistent_answer_is_a_failure(check: Check, answer: str):
    """Never a verdict of safe."""
    outcome, _ = judged(check, shown(answer, {" unsafe": 0.5, " safe": 0.5}))
    assert isinstance(outcome, Unintelligible)


@pytest.mark.parametrize("logprobs", [None, {"content": None}, {"content": []}, {"content": [{"token": "User"}]}])
def test_a_server_without_probabilities_gives_no_verdict(logprobs: Any):
    """A label without a probability is not taken for one of 0 or 1."""
    answer = shown("User Safety: safe", SAFE)
    answer["choices"][0]["logprobs"] = logprobs
    outcome, _ = judged(GOOD, answer)
    assert isinstance(outcome, Unintelligible)


@pytest.mark.parametrize("value", [None, "0", 3.0, math.nan, True])
def test_a_probability_that_is_none_is_a_failure(value: Any):
    """Neither is it clipped."""
    answer = shown("User Safety: safe", SAFE)
    answer["choices"][0]["logprobs"]["content"][2]["top_logprobs"][1]["logprob"] = value
    outcome, _ = judged(GOOD, answer)
    assert isinstance(outcome, GuardUnavailable)


def test_a_word_that_is_not_shown_has_a_bound_or_fails():
    """With few tokens shown, `unsafe` may have as much as the rest."""
    hidden, _ = judged(GOOD, shown("User Safety: safe", {" safe": 0.9}))
    assert isinstance(hidden, GuardUnavailable)
    assert "may be off" in str(hidden)
    known, _ = judged(GOOD, shown("User Safety: safe", {" safe": 0.99, " no": 0.006}))
    assert isinstance(known, Verdict)
    assert 0.0039 < known.unsafe <= known.leftover < 0.005


def test_a_word_in_pieces_counts_by_its_first_piece():
    """Tokenizers differ in whether the space is a token, and whether `unsafe` is one."""
    answer = shown("User Safety: safe", SAFE)
    tokens = answer["choices"][0]["logprobs"]["content"]
    tops = [{"token": "safe", "logprob": math.log(0.7)}, {"token": "un", "logprob": math.log(0.3)}]
    tokens[2:3] = [
        {"token": " ", "logprob": 0.0, "top_logprobs": [{"token": " ", "logprob": 0.0}]},
        {"token": "safe", "logprob": math.log(0.7), "top_logprobs": tops},
    ]
    outcome, _ = judged(GOOD, answer)
    assert isinstance(outcome, Verdict)
    assert outcome.unsafe == pytest.approx(0.3)


@pytest.mark.parametrize("options", [{"max_characters": 10}, {"max_characters": True}])
def test_options_are_checked(options: dict[str, Any]):
    """Neither a window of nothing nor a switch is a number of characters."""
    with pytest.raises(ConfigError, match="max_characters"):
        open_family(**options)
