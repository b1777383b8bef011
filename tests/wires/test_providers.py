"""Streams of providers stream: what they send beside the text holds nothing back until the end of the reply."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.chunks import Chunk
from guardproxy.errors import UpstreamUnreadable
from guardproxy.holdback import HoldBack, position_after
from guardproxy.pipeline.choice_checks import cut
from guardproxy.policy import StreamPolicy
from guardproxy.ports import ReplyStream
from guardproxy.types import Edit, Part, Refuse, Replace
from tests.wires.kit import BY_NAME, by_frame, chat_chunk, sse
from tests.wires.providers import CHAT, GEMINI, MESSAGES, OLLAMA, RESPONSES, word

STREAMS = [
    *(("chat", name, frames) for name, frames in CHAT.items()),
    *(("responses", name, frames) for name, frames in RESPONSES.items()),
    *(("messages", name, frames) for name, frames in MESSAGES.items()),
    *(("gemini", name, frames) for name, frames in GEMINI.items()),
    *(("ollama-chat", name, frames) for name, frames in OLLAMA.items()),
]
_LAG = StreamPolicy().lag


def held(stream: ReplyStream, frames: Sequence[bytes]) -> list[tuple[int, int]]:
    """Read the frames with a guard that finds nothing: after each, the characters that were read and that are held."""
    hold, seen = HoldBack(StreamPolicy()), []
    for frame in frames:
        for chunk in stream.feed(frame):
            hold.add(chunk)
        while asked := hold.ask():
            for ask in asked:
                hold.passed(ask)
        for chunk in hold.release():
            stream.release(chunk)
        seen.append((stream.message(0).size, hold.held_characters))
    return seen


def fed(stream: ReplyStream, frames: Sequence[bytes]) -> list[Chunk]:
    """Feed frames of a stream that goes on."""
    return [chunk for frame in frames for chunk in by_frame(stream.feed(frame))]


def named(body: dict[str, Any]) -> bytes:
    """Return an event with its name."""
    return f"event: {body['type']}\n".encode() + sse(body)


@pytest.mark.parametrize(("protocol", "name", "frames"), STREAMS, ids=[f"{case[0]}: {case[1]}" for case in STREAMS])
def test_the_stream_of_a_provider_streams(protocol: str, name: str, frames: list[bytes]) -> None:
    """No more is held than what comes between two checks, the lag, and a frame."""
    for size, waiting in held(BY_NAME[protocol].open(), frames):
        between = next(position_after(at) - at for at in iter_grid() if position_after(at) > size)
        assert waiting <= between + _LAG + 200, (size, waiting)


def test_an_answer_behind_long_reasoning_streams() -> None:
    """Its first words wait for a check of their own, not for the next one of the reasoning."""
    frames = [sse(chat_chunk(0, {"reasoning_content": word(n)})) for n in range(2000)]
    frames += [sse(chat_chunk(0, {"content": word(n)})) for n in range(80)]
    (before, _), *answer = held(BY_NAME["chat"].open(), frames)[1999:]
    assert before > 8000
    assert any(waiting <= _LAG + 20 and size < before + 100 for size, waiting in answer)


def iter_grid() -> Sequence[int]:
    """Return the positions of checks up to the length of these streams, from the first character on."""
    positions = [0, 80]
    while positions[-1] < 100_000:
        positions.append(position_after(positions[-1]))
    return positions


@pytest.mark.parametrize("kind", ["function_call", "custom_tool_call", "shell_call", "computer_call"])
def test_a_call_that_the_client_runs_waits(kind: str) -> None:
    """From its beginning to its end. The items of the upstream's own tools do not wait."""
    item = {"type": kind, "id": "i", "name": "f", "arguments": "{}", "input": "ls", "action": {"commands": ["ls"]}}
    events = ["response.output_item.added", "response.output_item.done"]
    chunks = fed(BY_NAME["responses"].open(), [named({"type": e, "output_index": 0, "item": item}) for e in events])
    assert [mark.whole for chunk in chunks for mark in chunk.marks] == [True, True]


def test_an_unknown_item_waits() -> None:
    """It may be a call of a kind that nobody knows here."""
    bodies = [{"type": "response.output_item.added", "output_index": 0, "item": {"type": "novel_call", "id": "n"}}]
    (chunk,) = fed(BY_NAME["responses"].open(), [sse(body) for body in bodies])
    assert [(mark.whole, mark.opaques) for mark in chunk.marks] == [(True, 1)]


def test_a_call_in_a_message_waits() -> None:
    """A block of an unknown type may be a call, and so may JSON in a block of text."""
    for block in ({"type": "tool_use", "id": "t", "name": "f", "input": {}}, {"type": "novel", "id": "t"}):
        stream = BY_NAME["messages"].open()
        bodies = [
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        ]
        chunks = fed(stream, [named(body) for body in bodies])
        assert [mark.whole for chunk in chunks for mark in chunk.marks] == [True, True, True, False, True]


# --- harm in any place -----------------------------------------------------------------------------------------------

HARM = "HARMFUL words that nobody may read here"


def passed_on(protocol: str, frames: Sequence[bytes]) -> bytes:
    """Return what leaves of a stream with a guard that finds one word, wherever it is judged."""
    stream, hold, out = BY_NAME[protocol].open(), HoldBack(StreamPolicy()), b""
    judged: dict[int, tuple[Part, ...]] = {}
    with suppress(UpstreamUnreadable):
        for frame in [*frames, None]:
            for chunk in stream.finish() if frame is None else stream.feed(frame):
                hold.add(chunk)
            if frame is None:
                hold.complete()
            while asked := hold.ask():
                for ask in asked:
                    message = stream.message(ask.choice)
                    if ask.exact:
                        message = cut(message, ask.upto, judged.get(ask.choice, ()))
                    if not any("HARMFUL" in part.text for part in message.parts):
                        judged[ask.choice] = message.parts
                        hold.passed(ask, message.size if ask.exact else None)
                    elif ask.early:
                        hold.skip(ask)
                    else:
                        out += stream.end(ask.choice, Refuse("No."))
                        hold.settle(ask.choice)
            out += b"".join(stream.release(chunk) for chunk in hold.release())
    return out


def strings(value: Any, way: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the places of all strings in a body."""
    if isinstance(value, str):
        return [way]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in inner for place in strings(item, (*way, key))]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_harm_in_any_string_of_any_frame_stays(data: st.DataObject) -> None:
    """Also beside the answer, in sources, results, reasoning, ids, states and unknown fields."""
    protocol, _, frames = data.draw(st.sampled_from(STREAMS))
    number = data.draw(st.integers(0, len(frames) - 1))
    found = re.fullmatch(rb"((?:event: .*\n)?(?:data: )?)(.*?)(\s*)", frames[number])
    assert found is not None
    body = json.loads(found[2])
    objects = [way[:-1] for way in strings(body) if isinstance(way[-1], str)]
    *way, key = data.draw(st.sampled_from([*strings(body), *((*inner, "aside") for inner in objects)]))
    place = body
    for step in way:
        place = place[step]
    place[key] = HARM
    frame = found[1] + json.dumps(body).encode() + found[3]
    assert b"HARMFUL" not in passed_on(protocol, [*frames[:number], frame, *frames[number + 1 :]]), (way, key)


# --- texts that a chunk has twice ------------------------------------------------------------------------------------


def detail(text: str | None, index: int = 0, kind: str = "text") -> dict[str, Any]:
    """Return a piece of `reasoning_details`."""
    return {"type": f"reasoning.{kind}", kind: text, "format": "unknown", "index": index}


def judged(deltas: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return the texts that are judged of a stream of deltas, by path in the message."""
    stream = BY_NAME["chat"].open()
    fed(stream, [sse(chat_chunk(0, delta)) for delta in deltas])
    return {part.path.partition(".message.")[2]: part.text for part in stream.message(0).parts}


def test_reasoning_that_is_sent_twice_is_judged_once() -> None:
    """Until the copies differ: then they are judged from their beginning."""
    same = [{"reasoning": word(n), "reasoning_details": [detail(word(n))]} for n in range(3)]
    text = word(0) + word(1) + word(2)
    assert judged(same) == {"reasoning": text}
    assert judged([*same, {"reasoning": None, "reasoning_details": [detail(None)]}, *same]) == {"reasoning": text * 2}
    for other in (
        {"reasoning": "a", "reasoning_details": [detail("b")]},
        {"reasoning_details": [detail("b")]},
        {"reasoning": "", "reasoning_details": [detail("b", 1)]},
        {"reasoning": "b", "reasoning_details": [{**detail("b"), "summary": "c"}]},
    ):
        found = judged([*same, other])
        assert any(path.startswith("reasoning_details") and found[path].startswith(text) for path in found), other


def test_copies_that_leave_a_piece_out_are_judged() -> None:
    """Joined, they would be a text that nobody has read."""
    pieces = [{"reasoning": "Do ", "reasoning_details": [detail("Do ")]}, {"reasoning": "not "}]
    last = {"reasoning": "go.", "reasoning_details": [detail("go.")]}
    assert judged([*pieces, last])["reasoning_details[0].text"] == "Do go."
    in_a_list = {"content": [{"type": "text", "text": "x"}], "reasoning_details": [detail("go.")]}
    assert judged([pieces[0], in_a_list])["reasoning_details[0].text"] == "Do go."
    turns = [
        {"reasoning": text, "reasoning_details": [detail(text, n % 2)]} for n, text in enumerate(["Do ", "not ", "go."])
    ]
    assert judged(turns)["reasoning_details[0].text"] == "Do go."


PIECES = st.lists(st.tuples(st.sampled_from(["", "a", "bc", "d e"]), st.integers(0, 2), st.booleans()), max_size=3)
DELTAS = st.lists(st.tuples(PIECES, st.sampled_from(["same", "other", "none"])), max_size=8)


@settings(max_examples=300, deadline=None)
@given(DELTAS)
def test_whatever_clients_join_of_the_details_is_judged(steps: list[tuple[list[tuple[str, int, bool]], str]]) -> None:
    """Each detail's text stands in a judged text, whether it is a copy or not."""
    deltas, joined = [], dict[str, str]()
    for pieces, reasoning in steps:
        details = [detail(text, index, "summary" if summary else "text") for text, index, summary in pieces]
        said = "".join(text for text, _, _ in pieces)
        deltas.append(
            {"reasoning": {"same": said, "other": "x", "none": None}[reasoning], "reasoning_details": details}
        )
        for text, index, summary in pieces:
            path = f"reasoning_details[{index}].{'summary' if summary else 'text'}"
            joined[path] = joined.get(path, "") + text
    found = judged(deltas)
    for path, text in joined.items():
        assert text == found.get(path, "") or text in found.get("reasoning", ""), (path, deltas, found)


def test_a_frame_with_copies_is_read_in_full() -> None:
    """A later frame with another text beside an earlier copy is no repetition of it."""
    frames = [sse(chat_chunk(0, {"reasoning": "ab", "reasoning_details": [detail("ab")]}))] * 40
    stream = BY_NAME["chat"].open()
    fed(stream, [*frames, sse(chat_chunk(0, {"reasoning": "cd", "reasoning_details": [detail("ab")]}))])
    assert stream.message(0).parts[-1].text == "ab" * 41


def test_a_whole_message_that_says_anything_else_is_opaque() -> None:
    """Perplexity repeats the message so far in every chunk; only that passes."""
    for said, opaque in (("Hi", False), ("Hi there", True), ("H", True), (None, False)):
        stream = BY_NAME["chat"].open()
        fed(stream, [sse(chat_chunk(0, {"content": "Hi"}, message={"role": "assistant", "content": said}))])
        assert bool(stream.message(0).opaque) is opaque, said


# --- endings behind what has been released ---------------------------------------------------------------------------


def test_a_replacement_comes_behind_a_closed_item() -> None:
    """The first message has been closed at the client when the second one turns harmful."""
    frames = RESPONSES["two messages"]
    stream = BY_NAME["responses"].open()
    text = "".join(word(n) for n in range(200))
    where = {"item_id": "msg_0", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": text, "annotations": []}
    ends = [
        {"type": "response.output_text.done", **where, "text": text, "logprobs": []},
        {"type": "response.output_item.done", "output_index": 0, "item": {"type": "message", "content": [part]}},
    ]
    second = next(n for n, frame in enumerate(frames) if b'"output_index": 1' in frame)
    chunks = fed(stream, [*frames[:second], *map(named, ends)])
    for chunk in chunks:
        stream.release(chunk)
    fed(stream, frames[second : second + 30])
    path = "output[0].content[0].text"
    out = stream.end(0, Replace((Edit(path, text + "[removed]"),), whole=True))
    events = [json.loads(line[6:]) for line in out.decode().splitlines() if line.startswith("data: ")]
    assert [event["delta"] for event in events if event["type"] == "response.output_text.delta"] == ["[removed]"]
    output = events[-1]["response"]["output"]
    assert [item["content"][0]["text"] for item in output] == [text, "[removed]"]


def test_the_rest_of_reasoning_stays_reasoning() -> None:
    """Mistral's reasoning is a part of the content: its rest must not become the answer."""
    stream = BY_NAME["chat"].open()
    fed(stream, CHAT["Mistral, reasoning"][:3])
    (part,) = stream.message(0).parts
    out = stream.end(0, Replace((Edit(part.path, "New thoughts."),)))
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in out.decode().splitlines() if line]
    contents = [delta["content"] for delta in deltas if delta.get("content")]
    assert contents == [[{"type": "thinking", "thinking": [{"type": "text", "text": "New thoughts."}]}]]
    assert stream.end(0, Refuse("No.")) == b""
