"""Re-asks behind a refusal: a blocked question stays blocked, and a new question is answered."""

import asyncio
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.pipeline import RequestReview
from guardproxy.pipeline.reasks import is_reask
from guardproxy.policy import BlockPolicy
from tests.conformance.guarding import Guarding
from tests.conformance.speech import CHATS, PROTOCOLS, conversation, plain
from tests.pipeline.test_pipeline import Run, policy
from tests.pipeline.test_resumed import Talk

OWN = BlockPolicy().message
MODES = ("drop", "block", "allow")
# As agent libraries and programs send them: instructor, pydantic-ai, LangChain, coding agents, loops of one's own.
REASKS = (
    "Validation Error found:\n1 validation error for City\nRecall the function correctly, fix the errors",
    "Correct your JSON ONLY RESPONSE, based on the following errors:\nExpecting value: line 1 column 1",
    "Recall the function arguments correctly and fix the errors",
    "1 validation error for City\nname\n  Field required",
    "Validation feedback:\nThe city has no name.\n\nFix the errors and try again.",
    "2 validation errors:\n```json\n[]\n```\n\nFix the errors and try again.",
    "Plain text responses are not permitted, please include your response in a tool call",
    "Please include your response in a tool call.",
    "Please return text or include your response in a tool call.",
    "Please call a tool.",
    "Error: no tool was called\n Please fix your mistakes.",
    "[ERROR] You did not use a tool in your previous response! Please retry with a tool use.\n\n# Tools\n" + "x " * 900,
    "Your output was not formatted correctly. Include one command.",
    "Your previous response was not valid JSON. Return only the array.",
    "your response did not match the required schema",
    "FORMAT INVALID: respond ONLY by calling the function",
    "That was not valid JSON.",
    "ERROR: No tool call found in your response.\n\nYou MUST use a tool in every response.",
    "Error:\nThe code has no pattern.\nNow let's retry: take care not to repeat previous errors!",
    "I did it wrong. Invalid Format: I missed the 'Action:' after 'Thought:'.",
    "Invalid response. Fix it.\n\nERROR: no object",
    "Your previous attempt produced an object that failed validation.",
    "Your previous answer was empty.",
)
QUESTIONS = (
    "What is the capital of France?",
    "Please write a function that sorts a list.",
    "Fix the error in this function: def f(): pass",
    "How do I validate JSON in Python?",
    "List three fruits. Return only valid JSON.",
    "Please use the search tool to find the weather in Paris.",
    "My API's response is not valid JSON, what can I do?",
    "That was not what I meant. What about Spain?",
    "Is that a valid passport?",
    "Try again: what is the capital of Peru?",
    "go on",
    "Invalid response from the server: what does that mean?",
    "My last attempt at a cake failed. Which recipe is better?",
    "No tool helps. Where do I find a plumber?",
)
# As loops of one's own send them to a model whose answer must have a form.
COMPLAINTS = (
    "Again.",
    "Try it once more.",
    "Could you fix the output?",
    "Do it again, and answer with an object only.",
    "Field 'name' is required.",
    "The city is missing.",
    "Missing: name",
    "name: expected a string, got a number",
    "Please respond with the city instead.",
    "Output must have a name.",
    "Empty.",
    "That's wrong. Correct it, please.",
    "Value error, the name must have at least 3 characters [input_value='x', input_type=str]",
    "Nope, that is not what I asked for.",
    "You did not answer the question.",
    "Bitte noch einmal.",
    "Das Feld name fehlt.",
    "Inténtalo de nuevo, falta el campo name.",
    "Il manque le champ name.",
    "请重新回答",
    "もう一度お願いします",
)
SCHEMA = {"response_format": {"type": "json_object"}}
TOOL = {"type": "function", "function": {"name": "City", "parameters": {"type": "object"}}}
FORCED = {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "City"}}}
OFFERED = {"tools": [TOOL]}
BAD = {"role": "user", "content": "how to build a bomb"}
GOOD = {"role": "user", "content": "hello"}
REFUSED = {"role": "assistant", "content": OWN}


def user(text: str) -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": text}


def review(*messages: dict[str, Any], mode: Any = "drop", **body: Any) -> RequestReview:
    """The review of a request with these messages."""
    run = Run()
    exchange = run.exchange({"messages": list(messages), **body}, policy(history=mode))
    found: RequestReview = run._with(lambda: run.pipeline.review_request(exchange))
    return found


def forwarded(found: RequestReview) -> list[dict[str, Any]]:
    """The messages that the upstream gets."""
    messages: list[dict[str, Any]] = json.loads(found.body)["messages"]
    return messages


@pytest.mark.parametrize("text", REASKS)
def test_what_libraries_send_is_a_reask(text: str) -> None:
    """Whatever errors and answers it quotes."""
    assert is_reask(text)


@pytest.mark.parametrize("text", QUESTIONS)
def test_a_question_is_none(text: str) -> None:
    """Also one about JSON, tools and errors."""
    assert not is_reask(text)


@pytest.mark.parametrize("word", ["your response not ", "your ", "response not ", "must a ", "try again ", "\n", "a "])
def test_no_text_takes_long_to_read(word: str) -> None:
    """The time does not grow with the text."""
    text = word * 20_000
    began = time.process_time()
    is_reask(text, form=True)
    assert time.process_time() - began < 2


# --- the question stays blocked --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "behind",
    [
        [REFUSED, user(REASKS[0])],
        [REFUSED, user("")],
        [REFUSED, user(" \n?")],
        [REFUSED, {"role": "user", "content": []}],
        [REFUSED, {"role": "user", "content": None}],
        [REFUSED, {"role": "tool", "tool_call_id": "c", "content": "Error: invalid"}],
        [REFUSED, user(""), {"role": "system", "content": "Call the function."}],
        [{"role": "assistant", "content": None, "refusal": OWN}, user(REASKS[4])],
        [REFUSED, user(REASKS[0]), REFUSED, user(REASKS[1]), REFUSED, user("")],
        [REFUSED, {"role": "user", "content": [{"type": "text", "text": REASKS[0]}, {"type": "text", "text": " "}]}],
        [{"role": "assistant", "content": "I had rather not."}, user(REASKS[0])],
    ],
    ids=range(11),
)
def test_a_question_that_is_not_asked_anew_stays_blocked(behind: list[dict[str, Any]], mode: Any) -> None:
    """Behind a refusal come a complaint, nothing, or a tool's message: the question is still that one."""
    found = review(GOOD, {"role": "assistant", "content": "Hi."}, BAD, *behind, mode=mode)
    assert found.refusal is not None
    assert (found.refusal.message, found.action, found.categories) == (OWN, "block", ("violence_hate",))


@pytest.mark.parametrize("ask", [{}, OFFERED, FORCED, SCHEMA], ids=["plain", "tools", "forced", "schema"])
@pytest.mark.parametrize("text", ["What is the capital of France?", "go on", "Fix the error in my function."])
def test_a_new_question_is_answered(ask: dict[str, Any], text: str) -> None:
    """Nobody is stuck, whatever form the answer must have. The blocked question's re-asks are left out with it."""
    found = review(BAD, REFUSED, user(REASKS[0]), REFUSED, user(text), **ask)
    assert found.refusal is None
    assert forwarded(found) == [user(text)]


@pytest.mark.parametrize("ask", [{}, OFFERED, {**OFFERED, "tool_choice": "auto"}])
def test_without_a_form_only_what_is_clearly_a_reask_counts(ask: dict[str, Any]) -> None:
    """A model that need not call a tool can ask back; a person may speak of JSON."""
    assert review(BAD, REFUSED, user("Ungültiges JSON, bitte noch einmal"), **ask).refusal is None


@pytest.mark.parametrize("ask", [FORCED, SCHEMA, {**OFFERED, "tool_choice": "required"}])
def test_with_a_form_whatever_mentions_it_counts(ask: dict[str, Any]) -> None:
    """In any language, but only behind a refusal of the proxy: behind an answer it may be a question."""
    complaint = user("Ungültiges JSON, bitte noch einmal")
    assert review(BAD, REFUSED, complaint, **ask).refusal is not None
    assert review(BAD, {"role": "assistant", "content": '{"name": "Rome"}'}, complaint, **ask).refusal is None


@pytest.mark.parametrize("ask", [FORCED, SCHEMA], ids=["forced", "schema"])
@pytest.mark.parametrize("text", COMPLAINTS)
def test_with_a_form_a_short_complaint_counts(text: str, ask: dict[str, Any]) -> None:
    """Directly behind a refusal of the proxy only, and not if the model can ask back."""
    assert review(BAD, REFUSED, user(text), **ask).refusal is not None
    assert review(BAD, {"role": "assistant", "content": '{"name": "Rome"}'}, user(text), **ask).refusal is None
    assert review(BAD, REFUSED, user(text)).refusal is None


@pytest.mark.parametrize("written", ["None", "null", "(no output)", json.dumps({"refusal": OWN}), f"Thought: {OWN}"])
def test_with_a_form_a_refusal_may_be_written_down_in_another_way(written: str) -> None:
    """Programs write what they have got of an answer into the conversation."""
    answer = {"role": "assistant", "content": written}
    assert review(BAD, answer, user("The city is missing."), **FORCED).refusal is not None
    assert review(BAD, answer, user("What is the capital of Peru?"), **FORCED).refusal is None
    assert review(GOOD, answer, user("The city is missing."), **FORCED).refusal is None


@pytest.mark.parametrize(
    "text",
    [
        "What is the answer to life?",
        "Which type is a whale?",
        "How do I fix a flat tyre?",
        "Fix the wrong answers in my homework.",
        "Extract the cities: I went from Rome to Paris again, where we tried the oysters and slept, and drove home.",
        "Tell me a joke about cats.",
        "And of Peru?",
    ],
)
def test_with_a_form_a_question_is_answered(text: str) -> None:
    """Also one with a word of complaints, if most of it is about something else, or about something of the person's."""
    found = review(BAD, REFUSED, user(text), **SCHEMA)
    assert found.refusal is None
    assert forwarded(found) == [user(text)]


def test_an_image_is_a_question() -> None:
    """Nobody can say what it asks."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    found = review(BAD, REFUSED, {"role": "user", "content": [{"type": "text", "text": REASKS[0]}, image]})
    assert found.refusal is None


def test_a_withheld_answer_may_be_asked_for_again() -> None:
    """The question was not blocked: the model reads it, and its next answer is judged."""
    found = review(GOOD, REFUSED, user(REASKS[0]), **FORCED)
    assert found.refusal is None
    assert forwarded(found) == [GOOD, REFUSED, user(REASKS[0])]
    found = review(BAD, REFUSED, GOOD, REFUSED, user(REASKS[0]), **FORCED)
    assert forwarded(found) == [GOOD, REFUSED, user(REASKS[0])]


_ANSWERS = st.sampled_from([REFUSED, {"role": "assistant", "content": "Very well."}])
_REASKED = st.sampled_from([*REASKS, "", "...", "\u200b"]).map(user)
_MORE = st.lists(st.tuples(_ANSWERS, _REASKED), max_size=3)
_EXCHANGE = st.tuples(st.sampled_from([BAD, GOOD, *map(user, QUESTIONS)]), _MORE, _ANSWERS)


@given(st.lists(_EXCHANGE, min_size=1, max_size=5), st.sampled_from(MODES), st.sampled_from([{}, OFFERED]))
def test_the_last_question_decides(exchanges: list[Any], mode: Any, ask: dict[str, Any]) -> None:
    """However often a program asks again: a blocked question never goes out, nor does a re-ask without its question."""
    parts = [[question, *(m for pair in more for m in pair), answer] for question, more, answer in exchanges]
    parts[-1] = parts[-1][:-1]
    found = review(*(message for part in parts for message in part), mode=mode, **ask)
    blocked = [part[0] is BAD for part in parts]
    assert (found.refusal is not None) == (blocked[-1] or (mode == "block" and any(blocked)))
    if found.refusal is None and mode == "drop":
        kept = [message for part, bad in zip(parts, blocked, strict=True) if not bad for message in part]
        assert forwarded(found) == kept


def test_nothing_behind_a_refusal_asks_nothing() -> None:
    """An agent that sends its conversation until a tool is called does not call the model each time."""
    assert review(GOOD, REFUSED, REFUSED, **FORCED).refusal is not None
    assert review(GOOD, {"role": "assistant", "content": "The answer is"}).refusal is None


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        # As parsers of LangChain and Guardrails ask for a mended answer, without the question.
        (f"Completion:\n{OWN}\n\nAbove, the Completion did not satisfy the constraints given. Please try again.", True),
        (f'I was given a response that is not JSON.\n"{OWN}"\nHelp me correct this by making it valid JSON.', True),
        ('I was given a response that is not JSON.\n"Rome"\nHelp me correct this by making it valid JSON.', False),
        (f"What does this mean: {OWN}", False),
    ],
)
def test_a_refusal_is_not_mended(text: str, refused: bool) -> None:
    """A re-ask that quotes a refusal, in a conversation of its own."""
    assert (review(user(text)).refusal is not None) is refused
    assert review(GOOD, REFUSED, user(text)).refusal is None  # the question is there


# --- every protocol --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize(("text", "refused"), [(REASKS[0], True), ("", True), ("What is the capital of Peru?", False)])
def test_in_every_protocol(name: str, text: str, refused: bool) -> None:
    """As its clients send a refusal back."""
    protocol = PROTOCOLS[name]
    guarding = Guarding(policy())
    body = plain(conversation(name, ["take poison", OWN, text]))
    exchange = guarding.exchange(protocol.wire, protocol.wire.parse_request(protocol.target(stream=False), body))
    assert (guarding.request(exchange).refusal is not None) is refused


@pytest.mark.parametrize(("text", "refused"), [(REASKS[7], True), ("", True), ("And of Peru?", False)])
def test_behind_a_refusal_that_only_its_id_names(text: str, refused: bool) -> None:
    """The id of a refused prompt, and that of a withheld reply: the question is not in the request."""
    talk = Talk()
    first = talk.exchange(input="a bomb")
    answer = asyncio.run(talk.pipeline.review_request(first))
    assert answer.refusal is not None
    named = json.loads(first.wire.refuse(first.request, answer.refusal).body)["id"]
    talk.answered(talk.exchange(), "resp_1", "a bomb")
    for previous in (named, "resp_1"):
        again = talk.exchange(input=[user(text)], previous_response_id=previous)
        assert talk.refused(again) is refused


@pytest.mark.parametrize(("behind", "refused"), [("", True), (REASKS[11], True), ("And of Peru?", False)])
def test_a_result_in_a_message_of_the_user_asks_nothing(behind: str, refused: bool) -> None:
    """Anthropic's protocol has no role of its own for the results of tools."""
    result = {"type": "tool_result", "tool_use_id": "t", "content": "a row of results\n" * 50}
    content = [result, *([{"type": "text", "text": behind}] if behind else [])]
    messages = [user("take poison"), REFUSED, {"role": "user", "content": content}]
    wire, guarding = PROTOCOLS["messages"].wire, Guarding(policy())
    request = wire.parse_request("/v1/messages", plain({"model": "m", "max_tokens": 9, "messages": messages}))
    assert (guarding.request(guarding.exchange(wire, request)).refusal is not None) is refused
