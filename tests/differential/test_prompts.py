"""What chat templates make of a request against what the guard read: every text in a prompt must have been judged."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest

from tests.conformance.speech import PROTOCOLS, plain
from tests.differential.conversations import IMAGE, WITH_PARTS, WRITERS, Turn, answer, tool_use, turn
from tests.differential.kit import UNSEEN, Shown, Stand, phrase, unjudged
from tests.differential.prompts import conversation_of, merged, rendered, results_as_users
from tests.differential.replies import sent

Json = dict[str, Any]
Seen = Callable[[list[Json]], list[Json]]
FORMS = list(WRITERS)


def as_sent(messages: list[Json]) -> list[Json]:
    """Return the messages as the client has sent them."""
    return messages


def forward(stand: Stand, protocol: str, body: Json) -> Json | None:
    """Send a request, and return the body that the upstream got; None if the proxy refused it."""
    stand.play(sent(answer(protocol)))
    address = stand.url + PROTOCOLS[protocol].target(stream=False)
    httpx.post(address, content=plain(body), headers={"content-type": "application/json"}, timeout=60)
    return json.loads(stand.forwarded.body) if stand.forwarded else None


def missed(stand: Stand, protocol: str, body: Json, seen: Seen = as_sent, unseen: str = "") -> list[str]:
    """Return the texts in the prompts of a request that the guard has not read, `unseen` characters left out."""
    forwarded = forward(stand, protocol, body)
    if forwarded is None:
        return []
    prompts = list(rendered(seen(conversation_of(protocol, forwarded))))
    assert prompts, "no template has rendered the request"
    table = dict.fromkeys(map(ord, unseen))
    return unjudged([Shown(item.how, item.prompt.translate(table)) for item in prompts], stand.guard.judged)


def check(stand: Stand, protocol: str, turns: Sequence[Turn], seen: Seen = as_sent, unseen: str = "") -> None:
    """Fail with the unjudged texts of a conversation's prompts."""
    found = missed(stand, protocol, WRITERS[protocol](turns), seen, unseen)
    assert not found, f"{[(turn.role, turn.texts) for turn in turns]}\n" + "\n".join(found)


@pytest.mark.parametrize("protocol", FORMS)
def test_ordinary_conversations(stand: Stand, protocol: str) -> None:
    rng = random.Random(protocol)
    for number in (0, 1, 2):
        history = [turn(rng, role) for _ in range(number) for role in ("user", "assistant")]
        check(stand, protocol, [*history, turn(rng, "user")])
        check(stand, protocol, [*history, turn(rng, "user"), *tool_use(rng, "call_1")])
        check(stand, protocol, [turn(rng, "user"), *tool_use(rng, "call_1"), turn(rng, "assistant"), turn(rng, "user")])


def test_every_template_renders_an_ordinary_conversation(stand: Stand) -> None:
    """The comparison compares something: each template writes the texts of a conversation into its prompt."""
    rng = random.Random(3)
    turns = [turn(rng, "user"), turn(rng, "assistant"), turn(rng, "user")]
    forwarded = forward(stand, "chat", WRITERS["chat"](turns))
    assert forwarded
    prompts = list(rendered(conversation_of("chat", forwarded)))
    assert len(prompts) >= 20
    for item in prompts:
        assert all(turn.texts[0] in item.prompt for turn in turns), item.how


# --- parts of a content ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", WITH_PARTS)
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_neighbouring_text_parts(stand: Stand, protocol: str, role: str) -> None:
    """Templates join the text parts of a content with nothing, a space or a line break."""
    rng = random.Random(protocol)
    for number in (2, 3, 5):
        check(stand, protocol, [turn(rng, "user"), turn(rng, "assistant"), turn(rng, role, number), turn(rng, "user")])
    letters = tuple(letter for letter in phrase(rng, 3) if letter != " ")
    check(stand, protocol, [turn(rng, "user"), turn(rng, "assistant"), Turn(role, letters), turn(rng, "user")])


@pytest.mark.parametrize("protocol", WITH_PARTS)
def test_text_parts_of_the_current_turn(stand: Stand, protocol: str) -> None:
    rng = random.Random(protocol)
    check(stand, protocol, [turn(rng, "user", 2)])
    check(stand, protocol, [turn(rng, "user"), turn(rng, "assistant"), turn(rng, "user", 4)])


@pytest.mark.parametrize("protocol", WITH_PARTS)
def test_text_parts_with_an_image_between(stand: Stand, protocol: str) -> None:
    """Servers of models without eyes leave out the image and join the texts around it."""
    rng = random.Random(protocol)
    first, second = turn(rng, "user", 2).texts
    check(stand, protocol, [Turn("user", (first, IMAGE, second))])


@pytest.mark.parametrize("protocol", WITH_PARTS)
def test_text_parts_with_an_invisible_part_between(stand: Stand, protocol: str) -> None:
    rng = random.Random(protocol)
    for unseen in UNSEEN:
        first, second = turn(rng, "user", 2).texts
        check(stand, protocol, [Turn("user", (first, unseen.replace(" ", ""), second))], unseen=unseen.replace(" ", ""))


@pytest.mark.parametrize("protocol", ["chat", "responses", "messages"])
def test_text_parts_of_a_tools_result(stand: Stand, protocol: str) -> None:
    rng = random.Random(protocol)
    call, result = tool_use(rng, "call_1")
    result = Turn("tool", (*result.texts, phrase(rng), phrase(rng)), "call_1")
    check(stand, protocol, [turn(rng, "user"), call, result])


# --- messages in a row -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", FORMS)
def test_user_messages_in_a_row_in_the_current_turn(stand: Stand, protocol: str) -> None:
    rng = random.Random(protocol)
    check(stand, protocol, [turn(rng, "user") for _ in range(3)], merged)


@pytest.mark.parametrize("protocol", FORMS)
def test_user_messages_in_a_row_in_the_history(stand: Stand, protocol: str) -> None:
    """A text in halves, with an answer behind it: the current turn is another."""
    rng = random.Random(protocol)
    halves = [turn(rng, "user") for _ in range(3)]
    check(stand, protocol, [*halves, turn(rng, "assistant"), turn(rng, "user")], merged)
    check(
        stand,
        protocol,
        [turn(rng, "user"), turn(rng, "assistant"), *halves, turn(rng, "assistant"), turn(rng, "user")],
        merged,
    )


@pytest.mark.parametrize("protocol", [form for form in FORMS if form != "gemini"])  # its results are JSON objects
def test_tool_results_in_a_row_in_the_history(stand: Stand, protocol: str) -> None:
    """Results of tools and a user's message, one after the other."""
    rng = random.Random(protocol)
    call, result = tool_use(rng, "call_1")
    turns = [turn(rng, "user"), call, result, turn(rng, "user"), turn(rng, "assistant"), turn(rng, "user")]
    check(stand, protocol, turns, lambda messages: merged(results_as_users(messages)))


@pytest.mark.parametrize("protocol", FORMS)
def test_assistant_messages_in_a_row(stand: Stand, protocol: str) -> None:
    """A text in halves that the client puts into the assistant's mouth."""
    rng = random.Random(protocol)
    halves = [turn(rng, "assistant"), turn(rng, "assistant")]
    check(stand, protocol, [turn(rng, "user"), *halves, turn(rng, "user")], merged)


@pytest.mark.parametrize("protocol", FORMS)
def test_messages_with_an_empty_answer_between(stand: Stand, protocol: str) -> None:
    rng = random.Random(protocol)
    for empty in ("", " ", "\n"):
        first, second = turn(rng, "user"), turn(rng, "user")
        check(stand, protocol, [first, Turn("assistant", (empty,)), second], merged)


@pytest.mark.parametrize("protocol", FORMS)
def test_messages_with_an_invisible_answer_between(stand: Stand, protocol: str) -> None:
    """An answer of characters that nobody sees does not separate the user's messages around it."""
    rng, found = random.Random(protocol), []
    for unseen in UNSEEN:
        turns = [turn(rng, "user"), Turn("assistant", (unseen,)), turn(rng, "user")]
        body = WRITERS[protocol](turns)
        if missed(stand, protocol, body, lambda messages, unseen=unseen: merged(messages, empty=unseen)):  # type: ignore[misc]
            found.append(ascii(unseen))
    assert not found, found


@pytest.mark.parametrize("protocol", FORMS)
def test_system_text_before_the_users(stand: Stand, protocol: str) -> None:
    """Gemma's and Mistral's templates write the system text in front of a user's text, without a token between."""
    rng = random.Random(protocol)
    check(stand, protocol, [turn(rng, "system"), turn(rng, "user")])


@pytest.mark.parametrize("protocol", FORMS)
def test_system_messages_in_a_row(stand: Stand, protocol: str) -> None:
    rng = random.Random(protocol)
    check(stand, protocol, [turn(rng, "system"), turn(rng, "system"), turn(rng, "user")], _merged_system)


@pytest.mark.parametrize("protocol", FORMS)
def test_system_text_in_several_parts(stand: Stand, protocol: str) -> None:
    rng = random.Random(protocol)
    check(stand, protocol, [turn(rng, "system", 3 if protocol in WITH_PARTS else 1), turn(rng, "user")], _of_system)


def _of_system(messages: list[Json]) -> list[Json]:
    """Return the system's messages alone, as if they were the user's: every template then renders their parts."""
    return [{**message, "role": "user"} for message in messages if message["role"] == "system"]


def _merged_system(messages: list[Json]) -> list[Json]:
    return _of_system(merged(messages, of=("system",)))


# --- strings of a request that are no text ---------------------------------------------------------------------------


def _rich() -> list[Json]:
    """Return messages with a name, tool calls and their results, as clients of chat completions send them."""
    call = {"id": "call_1", "type": "function", "function": {"name": "tide", "arguments": '{"port": "Brest"}'}}
    return [
        {"role": "user", "name": "anna", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "name": "tide", "content": "low at noon"},
        {"role": "user", "content": "Thanks"},
    ]


@pytest.mark.parametrize("key", ["role", "name", "tool_call_id", "content"])
@pytest.mark.parametrize("place", range(4))
def test_bare_strings_of_a_message(stand: Stand, key: str, place: int) -> None:
    """A text as a message's role, name or id, next to its content."""
    rng = random.Random(f"{key}{place}")
    messages = _rich()
    messages[place] = {**messages[place], key: phrase(rng)}
    found = missed(stand, "chat", {"model": "m", "messages": messages})
    assert not found, "\n".join(found)


@pytest.mark.parametrize("key", ["id", "name", "arguments", "type"])
def test_bare_strings_of_a_tool_call(stand: Stand, key: str) -> None:
    rng = random.Random(key)
    messages = _rich()
    call = messages[1]["tool_calls"][0]
    (call["function"] if key in ("name", "arguments") else call)[key] = phrase(rng)
    found = missed(stand, "chat", {"model": "m", "messages": messages})
    assert not found, "\n".join(found)


# Words that are joined as an identifier is: without white space, and of letters and marks that identifiers have.
_IDENTIFIERS = ("QZJQ_ZZQJ_QQZ", "QZJQ-ZZQJ-QQZ", "QZJQ.ZZQJ.QQZ", "QZJQZZQJQQZ")
_LISTS = {"responses": "input", "gemini": "contents"}


@pytest.mark.parametrize("protocol", FORMS)
def test_words_as_a_role(stand: Stand, protocol: str) -> None:
    """A role of words without white space, which ChatML's and Llama's templates write into the prompt."""
    rng = random.Random(protocol)
    found = []
    for role in (*_IDENTIFIERS, phrase(rng)):
        body = WRITERS[protocol]([turn(rng, "user"), turn(rng, "assistant"), turn(rng, "user")])
        body[_LISTS.get(protocol, "messages")][0]["role"] = role
        found += missed(stand, protocol, body)
    assert not found, "\n".join(found)


def test_words_as_a_name(stand: Stand) -> None:
    found = []
    for name in _IDENTIFIERS:
        messages = _rich()
        messages[0]["name"] = name
        found += missed(stand, "chat", {"model": "m", "messages": messages})
    assert not found, "\n".join(found)


def test_words_as_the_id_of_a_call(stand: Stand) -> None:
    """Mistral's template writes the ids of calls into the prompt. A single word cannot be told from an id."""
    found = []
    for name in _IDENTIFIERS[:-1]:
        messages = _rich()
        messages[1]["tool_calls"][0]["id"] = messages[2]["tool_call_id"] = name
        found += missed(stand, "chat", {"model": "m", "messages": messages})
    assert not found, "\n".join(found)
