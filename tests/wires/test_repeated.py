"""Frames that repeat an earlier one but for their text: they are read as every other frame is."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from string import ascii_letters, digits
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.chunks import Chunk, ChunkRun
from guardproxy.errors import UpstreamUnreadable
from guardproxy.holdback import first_frames
from guardproxy.ports import ReplyStream, Wire
from guardproxy.types import Edit, Message, Refuse, Replace
from guardproxy.wires import anthropic_messages, gemini, ollama, openai_chat, openai_completions, openai_responses
from guardproxy.wires.shared.repeated import Pattern, pattern_of
from tests.wires.kit import by_frame, pieces

_SPACE = re.compile(rb"\{ +")
MESSAGES = [{"role": "user", "content": "Hello there."}]
# As in JSON texts: some are no strings that the protocols' readers take, and end the stream.
RAW_TEXTS = (
    st.text().map(lambda text: json.dumps(text)[1:-1])
    | st.text().map(lambda text: json.dumps(text, ensure_ascii=False)[1:-1])
    | st.sampled_from(
        ["\\ud83d\\ude00", "\\ud800", "\\x", '"', "\\", "\t", "\x00", "\\u0000", '","content":"', "a\\/b"]
    )
)


@dataclass(frozen=True)
class Protocol:
    """How to write the frames of a stream: those at its start, one with a text, and some without."""

    wire: Wire
    path: str
    start: tuple[str, ...]
    text: Callable[[int, str, str, int], str]
    others: tuple[str, ...]
    content_type: str = "text/event-stream"
    end: str = "\n"
    body: tuple[tuple[str, Any], ...] = (("messages", MESSAGES),)

    def open(self) -> ReplyStream:
        """Return a reader."""
        body = json.dumps({"model": "m", "stream": True, "max_tokens": 9, **dict(self.body)}).encode()
        return self.wire.open_stream(self.wire.parse_request(self.path, body), self.content_type)

    def frame(self, body: str, before: str = ",") -> bytes:
        """Return the bytes of a frame; `before` stands before an item of an array."""
        named = self.wire in (anthropic_messages.wire, openai_responses.wire)
        if self.content_type == "application/x-ndjson":
            written = f"{body}{self.end}"
        elif self.content_type == "application/json":
            written = f"{before}{self.end if before == ',' else ''}{body}"
        else:
            event = "event: " + body.partition('"type":"')[2].partition('"')[0] + self.end if named else ""
            written = f"{event}data: {body}{2 * self.end}"
        return written.encode(errors="surrogatepass")

    def frames(self, bodies: Sequence[str]) -> list[bytes]:
        """Return the bytes of the frames of a stream, from its first one on."""
        return [self.frame(body, "," if place else "[") for place, body in enumerate(bodies)]


def chat_text(number: int, text: str, word: str, choice: int) -> str:
    """Return a delta with OpenAI's obfuscation; every third choice has reasoning."""
    key = "reasoning_content" if choice == 2 else "content"
    head = '"id":"c1","object":"chat.completion.chunk","model":"m"'
    choices = f'"choices":[{{"index":{choice % 2},"delta":{{"{key}":"{text}"}},"finish_reason":null}}]'
    return f'{{{head},{choices},"obfuscation":"{word}"}}'


def completion_text(number: int, text: str, word: str, choice: int) -> str:
    """Return a piece of a completion."""
    return f'{{"id":"c1","model":"m","choices":[{{"index":{choice % 2},"text":"{text}","logprobs":null}}]}}'


def block_text(number: int, text: str, word: str, choice: int) -> str:
    """Return a delta of one of two blocks."""
    delta = f'"type":"thinking_delta","thinking":"{text}"' if choice % 2 else f'"type":"text_delta","text":"{text}"'
    return f'{{"type":"content_block_delta","index":{choice % 2},"delta":{{{delta}}}}}'


def response_text(number: int, text: str, word: str, choice: int) -> str:
    """Return a delta of a part."""
    place = '"item_id":"i1","output_index":0,"content_index":0'
    rest = f'"logprobs":[],"sequence_number":{number},"obfuscation":"{word}"'
    return f'{{"type":"response.output_text.delta",{place},"delta":"{text}",{rest}}}'


def line_text(number: int, text: str, word: str, choice: int) -> str:
    """Return a line."""
    time = word if choice == 2 else f"2026-01-01T00:00:{number % 60:02}Z"
    return f'{{"model":"m","created_at":"{time}","message":{{"role":"assistant","content":"{text}"}},"done":false}}'


def thought_line(number: int, text: str, word: str, choice: int) -> str:
    """Return a line of a chat or, as every third, of thinking."""
    thinking = f'"content":"","thinking":"{text}"' if choice == 2 else f'"content":"{text}"'
    message = f'{{"role":"assistant",{thinking}}}'
    return f'{{"model":"m","created_at":"{time_of(number)}","message":{message},"done":false}}'


def generate_line(number: int, text: str, word: str, choice: int) -> str:
    """Return a line of a completion or, as every third, of thinking."""
    thinking = f'"response":"","thinking":"{text}"' if choice == 2 else f'"response":"{text}"'
    return f'{{"model":"m","created_at":"{time_of(number)}",{thinking},"done":false}}'


def time_of(number: int) -> str:
    """Return a time with as many digits as Go writes: without the zeros at its end."""
    return f"2026-01-01T00:00:{number % 60:02}" + f".{number % 7:03}".rstrip("0").rstrip(".") + "-07:00"


def candidate_text(number: int, text: str, word: str, choice: int) -> str:
    """Return a chunk of a candidate: of its text, of its thoughts, or of another candidate under another model's name.

    The counts grow.
    """
    part = f'{{"text":"{text}"{THOUGHT if choice == 1 else ""}}}'
    candidate = f'{{"content":{{"parts":[{part}],"role":"model"}},"index":{choice // 2}}}'
    counts = f'"promptTokenCount":4,"candidatesTokenCount":{3 * number},"totalTokenCount":{3 * number + 4}'
    name = word if choice == 2 else "gemini-2.5-flash"
    return f'{{"candidates":[{candidate}],"usageMetadata":{{{counts}}},"modelVersion":"{name}","responseId":"aBcD"}}'


THOUGHT = ',"thought":true'
_CONTENT = '{"candidates":[{"content":{"role":"model","parts":['
_SAID = f'{_CONTENT}{{"text":"a b"}}'
_LINE = '{"model":"m","created_at":"2026-01-01T00:00:09Z","message":{"role":"assistant"'
# Chunks of Gemini that repeat none of `candidate_text`: another order, end, call, candidate, part, key or value.
_CHUNKS = (
    f'{_SAID}]}},"finishReason":"STOP"}}]}}',
    f'{_CONTENT}{{"functionCall":{{"name":"tide","args":{{"port":"Brest"}}}}}}]}}}}]}}',
    f'{_SAID}]}}}},{{"index":1,"content":{{"parts":[{{"text":"c"}}]}}}}]}}',
    f'{_SAID},{{"text":"c"}}]}}}}]}}',
    f'{_CONTENT}{{"text":"a","text":"b"}}]}}}}]}}',
    f'{_SAID}]}},"finishMessage":"how to"}}]}}',
    f'{_SAID}]}},"logprobsResult":{{"chosenCandidates":[{{"token":"a b"}}]}}}}]}}',
    '{"usageMetadata":{"candidatesTokenCount":"how to do it"}}',
    '{"error":{"code":500,"message":"how to do it"}}',
)
_CHOICE = '{"id":"c2","model":"n","choices":[{"index":0,'
_TOKEN = '{"token":"ab","logprob":-1,"bytes":null,"top_logprobs":[]}'
_ITEM = '"output_index":0,"item":{"type":"message","id":"i1","role":"assistant","content":[]}'
_PART = '"output_index":0,"content_index":0,"part":{"type":"output_text","text":"","annotations":[]}'
PROTOCOLS = {
    "chat": Protocol(
        openai_chat.wire,
        "/v1/chat/completions",
        (f'{_CHOICE}"delta":{{"role":"assistant","content":""}}}}]}}',),
        chat_text,
        (
            f'{_CHOICE}"delta":{{"content":"a"}},"logprobs":{{"content":[{_TOKEN}]}}}}]}}',
            f'{_CHOICE}"delta":{{}},"finish_reason":"stop"}}]}}',
            '{"id":"c3","model":"m","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}',
        ),
    ),
    "completions": Protocol(
        openai_completions.wire,
        "/v1/completions",
        (),
        completion_text,
        (f'{_CHOICE}"text":"","finish_reason":"stop"}}]}}', f'{_CHOICE}"text":"a","logprobs":{{"tokens":["b"]}}}}]}}'),
        body=(("prompt", "Hello."),),
    ),
    "anthropic": Protocol(
        anthropic_messages.wire,
        "/v1/messages",
        (
            '{"type":"message_start","message":{"id":"m1","model":"m","role":"assistant","content":[]}}',
            '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
            '{"type":"content_block_start","index":1,"content_block":{"type":"thinking","thinking":""}}',
        ),
        block_text,
        ('{"type":"ping"}', '{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":3}}'),
    ),
    "responses": Protocol(
        openai_responses.wire,
        "/v1/responses",
        (
            '{"type":"response.created","response":{"id":"r1","model":"m","output":[]}}',
            f'{{"type":"response.output_item.added",{_ITEM}}}',
            f'{{"type":"response.content_part.added",{_PART}}}',
        ),
        response_text,
        ('{"type":"response.in_progress","response":{"id":"r1","model":"n","output":[]}}',),
        body=(("input", "Hello."),),
    ),
    "ollama": Protocol(
        ollama.wire,
        "/api/chat",
        (),
        line_text,
        ('{"model":"n","message":{"role":"assistant","content":""},"done":true,"eval_count":3}',),
        content_type="application/x-ndjson",
    ),
    "ollama-thinking": Protocol(
        ollama.wire,
        "/api/chat",
        (),
        thought_line,
        (
            f'{_LINE},"content":"a","thinking":"b"}},"done":false}}',
            f'{_LINE},"content":"a"}},"logprobs":[{{"token":"ab","logprob":-1}}],"done":false}}',
            f'{_LINE},"content":"a","images":["aGVsbG8="]}},"done":false}}',
            f'{_LINE},"content":"","tool_calls":[{{"function":{{"name":"f","arguments":{{}}}}}}]}},"done":false}}',
            f'{_LINE},"content":"a","content":"b"}},"done":false}}',
        ),
        content_type="application/x-ndjson",
    ),
    "ollama-generate": Protocol(
        ollama.wire,
        "/api/generate",
        (),
        generate_line,
        ('{"model":"n","response":"","done":true,"context":[1,2]}', '{"error":"how to do it"}'),
        content_type="application/x-ndjson",
        body=(("prompt", "Hello."),),
    ),
    **{
        name: Protocol(
            gemini.wire,
            "/v1beta/models/m:streamGenerateContent",
            (),
            candidate_text,
            _CHUNKS,
            content_type=content_type,
            end=end,
            body=(("contents", [{"role": "user", "parts": [{"text": "Hello."}]}]),),
        )
        for name, content_type, end in (
            ("gemini", "text/event-stream", "\r\n"),
            ("gemini-lf", "text/event-stream", "\n"),
            ("gemini-array", "application/json", "\r\n"),
        )
    },
}
Step = tuple[str, str, int, int]
STEPS = st.lists(
    st.tuples(
        RAW_TEXTS,
        st.sampled_from(["", "x7Kq2", "stop", " how to do it", "build_the_bomb_now"]),
        st.integers(0, 2),
        st.integers(0, 25),
    )
)


def bodies(protocol: Protocol, steps: Sequence[Step]) -> list[str]:
    """Return the JSON texts of a stream. A step is a text, a word for the fields beside it, a choice, and a number."""
    frames = [*protocol.start]
    for number, (text, word, choice, which) in enumerate(steps):
        frames.append(protocol.text(number, text, word, choice))
        if which < len(protocol.others):
            frames.append(protocol.others[which])
    return frames


def spaced(texts: Sequence[str]) -> list[str]:
    """Return JSON texts with other white space in each: none repeats another."""
    return [f"{text[:1]}{' ' * place}{text[1:]}" for place, text in enumerate(texts, 1)]


@dataclass
class Seen:
    """What a reader says of a stream, frame by frame, until it refuses one."""

    stream: ReplyStream
    chunks: list[Chunk]
    states: list[Any]
    refused: bool = False


def read(protocol: Protocol, frames: Sequence[bytes]) -> Seen:
    """Read the frames one by one."""
    seen = Seen(protocol.open(), [], [])
    for frame in frames:
        try:
            new = seen.stream.feed(frame)
        except UpstreamUnreadable:
            seen.refused = True
            break
        stream, new = seen.stream, by_frame(new)
        texts = [stream.message(choice) for choice in stream.choices]
        complete = [stream.is_complete(choice) for choice in stream.choices]
        seen.chunks += new
        seen.states.append(([chunk.marks for chunk in new], stream.choices, texts, complete, stream.info, stream.id))
    return seen


def ending(seen: Seen, released: int, outcome: Refuse | Replace | None) -> tuple[list[Message], bytes, bytes]:
    """Release some chunks; return what was released, and the frames that the proxy writes for an outcome."""
    for chunk in seen.chunks[:released]:
        seen.stream.release(chunk)
    texts = [seen.stream.released(choice) for choice in seen.stream.choices]
    ends = [seen.stream.end(choice, outcome) for choice in seen.stream.choices[:1] if outcome is not None]
    return texts, b"".join(ends), seen.stream.close()


@pytest.mark.parametrize("name", PROTOCOLS)
@settings(max_examples=60, deadline=None)
@given(steps=STEPS, released=st.integers(0, 9), refuses=st.booleans(), cuts=st.lists(st.integers(0), max_size=3))
def test_repetitions_are_read_as_other_frames(
    name: str, steps: list[Step], released: int, refuses: bool, cuts: list[int]
) -> None:
    """The same JSON with other white space in every frame repeats nothing, so it is read in full.

    Wherever the bytes are cut, frames are read in runs as one by one.
    """
    protocol = PROTOCOLS[name]
    texts = bodies(protocol, steps)
    frames = protocol.frames(texts)
    seen = read(protocol, frames)
    plain = read(protocol, protocol.frames(spaced(texts)))
    assert seen.states == plain.states
    assert seen.refused == plain.refused
    cut = read(protocol, pieces(b"".join(frames), cuts))
    assert cut.refused == seen.refused
    if frames and not seen.refused:
        assert [chunk[:2] for chunk in cut.chunks] == [chunk[:2] for chunk in seen.chunks]
        assert cut.states[-1][1:] == seen.states[-1][1:]
    assert [_SPACE.sub(b"{", chunk.raw, 1) for chunk in plain.chunks] == [chunk.raw for chunk in seen.chunks]
    if not seen.refused and seen.stream.choices:
        first = seen.stream.message(0).parts if 0 in seen.stream.choices else ()
        edits = tuple(Edit(part.path, f"{part.text}!") for part in first if part.kind != "opaque")
        outcome = Refuse("No.") if refuses else Replace(edits)
        try:
            expected = ending(plain, released, outcome)
        except ValueError:
            return  # the edit does not begin with what was released
        assert ending(cut, released, outcome) == ending(seen, released, outcome) == expected


@pytest.mark.parametrize("name", PROTOCOLS)
@settings(max_examples=30, deadline=None)
@given(
    words=st.lists(st.sampled_from(["a", "b c", "é", "\\n"]), min_size=2, max_size=9),
    cuts=st.lists(st.integers(0), max_size=3),
    leaves=st.tuples(st.integers(0, 12), st.integers(1, 4)),
    outcome=st.sampled_from(["refused", "edited", "passed"]),
)
def test_frames_that_leave_together_leave_as_one_by_one(
    name: str, words: list[str], cuts: list[int], leaves: tuple[int, int], outcome: str
) -> None:
    """Wherever the bytes are cut, and however many frames of a run leave at once, the client gets the same."""
    protocol = PROTOCOLS[name]
    steps = [protocol.text(number, word, "ab1", 0) for number, word in enumerate(words)]
    frames = protocol.frames([*protocol.start, *steps])
    single, stream = read(protocol, frames), protocol.open()
    (leave, size), out, released = leaves, b"", 0
    for chunk in [chunk for part in pieces(b"".join(frames), cuts) for chunk in stream.feed(part)]:
        while released < leave:
            stop = min(chunk.taken + size, len(chunk.upto)) if isinstance(chunk, ChunkRun) else 1
            released += stop - chunk.taken if isinstance(chunk, ChunkRun) else 1
            out += stream.release(first_frames(chunk, stop) if isinstance(chunk, ChunkRun) else chunk)
            if not isinstance(chunk, ChunkRun) or stop == len(chunk.upto):
                break
    assert out == b"".join(chunk.raw for chunk in single.chunks[:released])
    edits = tuple(Edit(part.path, part.text) for part in stream.message(0).parts)
    ends: dict[str, Refuse | Replace | None] = {"refused": Refuse("No."), "edited": Replace(edits), "passed": None}
    end = ends[outcome]
    assert ending(Seen(stream, [], []), 0, end) == ending(single, released, end)


@pytest.mark.parametrize("choice", [0, 2])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_deltas_are_read_in_runs(name: str, choice: int) -> None:
    """The first is learned and the others are one, with events' names, numbers, times, counts, escapes and padding.

    The second item of an array shows what stands before the others.
    """
    protocol = PROTOCOLS[name]
    if name == "ollama" and choice == 2:
        return  # what stands where the others have a time is judged
    words = ["ab", "c\\n", "\\ud83d\\ude00", "é", '\\"', "\\\\", "\\u0000", "\\/", "d"]
    steps = [protocol.text(number, word, "b" * (number + 1), choice) for number, word in enumerate(words)]
    if name.startswith("gemini"):  # with the same name for every frame
        steps = [protocol.text(number, word, "m", choice) for number, word in enumerate(words)]
    stream = protocol.open()
    chunks = stream.feed(b"".join(protocol.frames([*protocol.start, *steps])))
    assert [len(chunk.upto) for chunk in chunks if isinstance(chunk, ChunkRun)] == [7 if name == "gemini-array" else 8]
    assert 'abc\n😀é"\\\0/d' in [part.text for part in stream.message(stream.choices[-1]).parts]


def test_deltas_with_sorted_members_are_read_in_runs() -> None:
    """Azure's padding stands in front of other members."""
    protocol = PROTOCOLS["chat"]
    body = '{{"choices":[{{"delta":{{"content":"a{0}"}},"index":0}}],"obfuscation":"{1}","system_fingerprint":"fp_1"}}'
    frames = [protocol.frame(body.format(number, "b" * number)) for number in range(1, 9)]
    stream = protocol.open()
    chunks = stream.feed(b"".join(frames))
    assert [len(chunk.upto) for chunk in chunks if isinstance(chunk, ChunkRun)] == [7]
    assert sum(len(chunk.raw) for chunk in chunks) == sum(map(len, frames))
    assert [part.text for part in stream.message(0).parts] == ["".join(f"a{number}" for number in range(1, 9))]


@pytest.mark.parametrize("twice", [',"obfuscation":"x"', ',"p":"ab"', ',"obfuscation":"x","p":"ab"'])
def test_of_two_paddings_no_text_leaves(twice: str) -> None:
    """The last one is replaced, in frames that are read in runs as well; the others are read as any value."""
    protocol = PROTOCOLS["chat"]
    body = '{"choices":[{"delta":{"content":"a"},"index":0}],"id":"c1"%s,"obfuscation":"howtobuildabomb"}'
    stream = protocol.open()
    for _ in range(2):
        chunks = stream.feed(4 * protocol.frame(body % twice))
        assert b"howto" not in b"".join(chunk.raw for chunk in chunks)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_padding_is_replaced_in_runs(end: str) -> None:
    """With either line end; padding with escapes is none, and is judged."""
    protocol = replace(PROTOCOLS["chat"], end=end)
    frames = [protocol.frame(protocol.text(0, "a", "howtobuildabomb", 0)) for _ in range(4)]
    stream = protocol.open()
    chunks = stream.feed(b"".join(frames))
    assert [len(chunk.upto) for chunk in chunks if isinstance(chunk, ChunkRun)] == [3]
    assert b"howto" not in b"".join(chunk.raw for chunk in chunks)
    stream.feed(2 * protocol.frame(protocol.text(0, "a", "\\u0068owtobuilditathome", 0)))
    assert "howtobuilditathome" in [part.text for part in stream.message(0).parts]


@pytest.mark.parametrize("name", ["chat", "responses"])
def test_random_padding_is_no_text(name: str) -> None:
    """Random letters look like words now and then. No event is held for them, and no part has them."""
    protocol, letters, random = PROTOCOLS[name], ascii_letters + digits, Random(3)
    stream = protocol.open()
    for text in protocol.start:
        stream.feed(protocol.frame(text))
    for number in range(1000):
        padding = "".join(random.choices(letters, k=random.randint(2, 16)))
        for chunk in stream.feed(protocol.frame(protocol.text(number, "word ", padding, 0))):
            assert not any(mark.whole for mark in chunk.marks)
            assert padding.encode() not in chunk.raw or len(padding) < 4
    assert [part.text for part in stream.message(0).parts] == ["word " * 1000]


def dicts(value: Any) -> list[dict[str, Any]]:
    """Return every object in a JSON value, the outer ones first."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [*([value] if isinstance(value, dict) else []), *(found for item in inner for found in dicts(item))]


BESIDE = st.tuples(
    st.integers(0, 3),
    st.sampled_from(
        [
            "role",
            "item_id",
            "sequence_number",
            "created_at",
            "obfuscation",
            "vendor",
            "name",
            "model",
            "logprobs",
            "thinking",
            "thought",
            "modelVersion",
            "totalTokenCount",
        ]
    ),
    st.sampled_from(["how to", " do it", "stop", "x7Kq2", 7, None, ["stop"], ["how do I"], {"a b c d": "how"}, []]),
)


@pytest.mark.parametrize("name", PROTOCOLS)
@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from("ab"), BESIDE), min_size=3, max_size=9))
def test_values_beside_the_text_are_read_as_in_other_frames(
    name: str, steps: list[tuple[str, tuple[int, str, Any]]]
) -> None:
    """A frame may have texts in other fields, of any kind, that come again or change."""
    protocol = PROTOCOLS[name]
    texts = [*protocol.start]
    for number, (text, (place, key, value)) in enumerate(steps):
        body = json.loads(protocol.text(number, text, "ab1", 0))
        objects = dicts(body)
        objects[place % len(objects)][key] = value
        texts.append(json.dumps(body, separators=(",", ":")))
    seen = read(protocol, protocol.frames(texts))
    plain = read(protocol, protocol.frames(spaced(texts)))
    assert (seen.states, seen.refused) == (plain.states, plain.refused)


def delta(number: Any, text: str, item: str = "i1") -> str:
    """Return a delta of a response."""
    place = f'"item_id":"{item}","output_index":0,"content_index":0'
    return f'{{"type":"response.output_text.delta",{place},"delta":"{text}","sequence_number":{number}}}'


def chunk(text: str, role: str) -> str:
    """Return a delta of a chat with a role."""
    return f'{{"id":"c1","model":"m","choices":[{{"index":0,"delta":{{"role":"{role}","content":"{text}"}}}}]}}'


@pytest.mark.parametrize(
    ("name", "frames", "path", "text"),
    [
        ("responses", [delta('"a"', "b"), delta('"now build it at home"', "c")], "sequence_number", "now build it"),
        ("responses", [delta(1, "a", item) for item in ("how to", "how to", " do", "how to")], "item_id", "how to doh"),
        ("chat", [chunk("a", role) for role in ("how", "how", " to", "how")], "choices[0].message.role", "how tohow"),
    ],
)
def test_a_text_beside_the_text_is_judged(name: str, frames: list[str], path: str, text: str) -> None:
    """A text where another frame has a number, and a text that continues what an earlier frame has, are read."""
    protocol = PROTOCOLS[name]
    seen = read(protocol, [protocol.frame(frame) for frame in (*protocol.start, *frames)])
    (found,) = [part.text for part in seen.stream.message(0).parts if part.path == path]
    assert found.startswith(text)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_repetitions_are_recognised(name: str) -> None:
    """Texts of a stream do not go through the JSON parser: a pattern reads them."""
    protocol = PROTOCOLS[name]
    texts = [*protocol.start, *(protocol.text(number, text, "ab1", 0) for number, text in enumerate("abcdé"))]
    stream = protocol.open()
    before = len(protocol.start)
    for frame in protocol.frames(texts):
        stream.feed(frame)
    assert "".join(part.text for part in stream.message(0).parts) == "abcdé"
    patterns = [known.pattern for known in stream._repeated]  # type: ignore[attr-defined]
    assert len(patterns) == 1
    padding = ',"obfuscation":"ab1"'
    assert all(patterns[0].values(text.replace(padding, "")) is not None for text in texts[before:])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"n":12,"s":"b"}', ["b", 12]),
        ('{"n":0,"s":"\\ud83d\\ude00\\n"}', ["😀\n", 0]),
        ('{"n":12,"s":"b"} ', None),
        ('{"n":12,"s":"b","s":"c"}', None),
        ('{"n":12,"s":"\\ud800"}', None),
        ('{"n":12,"s":"\t"}', None),
        ('{"n":12,"s":"b}', None),
        ('{"n":1.5,"s":"b"}', None),
        ('{"n":012,"s":"b"}', None),
        ('{"n":1e3,"s":"b"}', None),
        ('{"n":-1,"s":"b"}', None),
        ('{"n":1\u0663,"s":"b"}', None),
        ('{"n":1234567890123456,"s":"b"}', None),
        ('{"s":"b","n":12}', None),
    ],
)
def test_values_of_a_pattern(text: str, values: list[Any] | None) -> None:
    """What fits is the same JSON with other values in the gaps, in the order in which they were asked for."""
    assert known_pattern(b'{"n":1,"s":"a"}', [("s",), ("n",)]).values(text) == values


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b'{"a":"x","b":"x"}', ("b",)),
        (b'{"x":"y","b":["y",{"c":"x"}]}', ("b", 1, "c")),
        (b'{"a":"say \\"x\\"","b":"x"}', ("b",)),
    ],
)
def test_a_value_that_occurs_several_times(data: bytes, place: tuple[str | int, ...]) -> None:
    """The gap is where the value of the place stands, not an equal text elsewhere."""
    pattern = known_pattern(data, [place])
    start = data.decode().rindex("x")
    assert pattern.values(f"{data.decode()[:start]}new{data.decode()[start + 1 :]}") == ["new"]


@pytest.mark.parametrize("value", ["1.5", "true", "null", "[]", "-1", '"\\u0061"'])
def test_values_without_a_gap(value: str) -> None:
    """Only strings in a usual form and whole numbers have gaps."""
    data = f'{{"a":{value}}}'.encode()
    assert pattern_of(data, json.loads(data), [("a",)]) is None


def known_pattern(data: bytes, places: Sequence[tuple[str | int, ...]]) -> Pattern:
    """Return a pattern that must exist."""
    pattern = pattern_of(data, json.loads(data), places)
    assert pattern is not None
    return pattern
