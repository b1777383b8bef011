"""Streams of every protocol: chunks do not depend on the split, bytes pass unchanged, and every cut ends well."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.errors import UpstreamUnreadable
from guardproxy.types import Edit, Message, Refuse, Replace
from tests.wires.kit import BY_NAME, CASES, Case, by_frame, chat_chunk, fed, pieces, shape, sse

REFUSAL = "I cannot help with that."
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@each_case
def test_one_byte_at_a_time(case: Case) -> None:
    """A stream that is fed byte by byte has the same chunks as the whole stream."""
    raw = case.raw
    assert shape(fed(case.open(), [bytes([byte]) for byte in raw])) == shape(fed(case.open(), [raw]))


@each_case
@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 10_000), max_size=8))
def test_any_split(case: Case, cuts: list[int]) -> None:
    """Wherever a stream is cut, its chunks and texts are the same."""
    whole, split = case.open(), case.open()
    assert shape(fed(split, pieces(case.raw, cuts))) == shape(fed(whole, [case.raw]))
    assert [split.message(choice) for choice in split.choices] == [whole.message(choice) for choice in whole.choices]


@each_case
def test_clean_streams_leave_as_they_came(case: Case) -> None:
    """A stream that is released in full keeps its bytes, and the proxy adds no ending."""
    stream = case.open()
    assert b"".join(stream.release(chunk) for chunk in fed(stream, [case.raw])) == case.raw
    assert stream.close() in (b"", b"data: [DONE]\n\n")


@each_case
def test_a_stream_says_what_the_whole_reply_says(case: Case) -> None:
    """The texts, kinds and choices of a stream are those of the whole reply."""
    stream = case.open()
    fed(stream, [case.raw])
    choices = case.wire.parse_reply(case.request(), case.reply).choices
    said = [_said(stream.message(choice)) for choice in stream.choices]
    assert said == [_said(message) for message in choices]


def _said(message: Message) -> set[tuple[str, str, str]]:
    """Return paths, kinds and texts without spaces, because servers space the JSON of arguments differently."""
    parts = (part for part in message.parts if part.text)
    return {(part.path, part.kind, part.text.replace(" ", "")) for part in parts}


@each_case
def test_marks_follow_the_text(case: Case) -> None:
    """A mark's position is the size of the text read so far, and every choice is closed once."""
    stream = case.open()
    finals: list[int] = []
    for chunk in [*by_frame(stream.feed(case.raw)), *stream.finish()]:
        finals += [mark.choice for mark in chunk.marks if mark.final]
        assert all(mark.upto <= stream.message(mark.choice).size for mark in chunk.marks)
    assert sorted(finals) == list(stream.choices)
    again = case.open()
    last: dict[int, int] = {}
    for byte in case.raw:
        for chunk in by_frame(again.feed(bytes([byte]))):
            for mark in chunk.marks:
                assert mark.upto >= last.get(mark.choice, 0)
                last[mark.choice] = mark.upto
                assert mark.upto == again.message(mark.choice).size


@each_case
def test_tool_calls_and_endings_wait_for_the_whole(case: Case) -> None:
    """A chunk that brings a part of a tool call or ends a choice is not released before the last verdict."""
    stream = case.open()
    calls: dict[int, int] = {}
    for chunk in by_frame(stream.feed(case.raw)):
        for mark in chunk.marks:
            assert mark.whole or not mark.final
        for choice in stream.choices:
            now = sum(len(part.text) for part in stream.message(choice).parts if part.kind == "tool_call")
            calls[choice] = now
    waiting = case.open()
    for byte in case.raw:
        for chunk in by_frame(waiting.feed(bytes([byte]))):
            for mark in chunk.marks:
                parts = waiting.message(mark.choice).parts
                if any(part.kind == "tool_call" for part in parts):
                    calls_so_far = sum(len(part.text) for part in parts if part.kind == "tool_call")
                    assert mark.whole or calls_so_far == calls.get(mark.choice, 0)


@each_case
def test_a_refusal_after_any_chunk_lets_no_more_text_out(case: Case) -> None:
    """A stream that is ended after n chunks has the text of these chunks only; later chunks of a choice are dropped."""
    total = len(fed(case.open(), [case.raw]))
    for count in range(total):
        stream = case.open()
        chunks = fed(stream, [case.raw])
        before = [stream.release(chunk) for chunk in chunks[:count]]
        left = {choice: stream.released(choice).text for choice in stream.choices}
        ended = b"".join(stream.end(choice, Refuse(REFUSAL)) for choice in stream.choices)
        after = b"".join(stream.release(chunk) for chunk in chunks[count:])
        out = b"".join(before) + ended + after + stream.close()
        assert {choice: stream.released(choice).text for choice in stream.choices} == left
        assert stream.end(stream.choices[0], Refuse(REFUSAL)) == b""
        _reads_again(case, out, left)


def _reads_again(case: Case, out: bytes, left: dict[int, str]) -> None:
    """The output is a stream of the protocol, with the released text and at most the refusal."""
    again = case.open()
    fed(again, [out])
    for choice, text in left.items():
        said = again.message(choice).text
        assert said.replace(REFUSAL, "").strip("\n") == text.strip("\n")
        assert REFUSAL in said or text


EDITS: dict[str, tuple[int, str, str]] = {
    "chat": (0, "choices[0].message.content", "Grüße from the harbour."),
    "chat-tools": (1, "choices[1].message.content", "Low tide is late."),
    "chat-reasoning": (0, "choices[0].message.content", "Good morning, all."),
    "completions": (0, "choices[0].text", " once there was nothing."),
    "responses": (0, "output[1].content[0].text", "High tide comes."),
    "messages": (0, "content[1].text", "Let me see."),
    "ollama-chat": (0, "message.content", "Ahoy, sailor."),
    "ollama-tools": (0, "message.content", "Checking. Done."),
    "ollama-generate": (0, "response", "The sky is grey."),
    "gemini": (0, "candidates[0].content.parts[1].text", "The harbour is shut."),
    "gemini-array": (0, "candidates[0].content.parts[1].text", "The harbour is shut."),
}


@each_case
@pytest.mark.parametrize("whole", [False, True])
def test_a_rewrite_after_any_chunk_goes_on_from_what_left(case: Case, whole: bool) -> None:
    """The client reads the edited text in full and once, after any chunk; with `whole` it reads nothing else."""
    choice, path, new = EDITS[case.name]
    for count in range(len(fed(case.open(), [case.raw]))):
        stream = case.open()
        chunks = fed(stream, [case.raw])
        before = b"".join(stream.release(chunk) for chunk in chunks[:count])
        left = {part.path: part.text for part in stream.released(choice).parts}
        if not new.startswith(left.get(path, "")) or any(
            part.kind == "tool_call" for part in stream.released(choice).parts
        ):
            break
        ended = stream.end(choice, Replace((Edit(path, new),), whole=whole))
        for other in set(stream.choices) - {choice}:
            ended += stream.end(other, Refuse(REFUSAL))
        again = case.open()
        fed(again, [before + ended + stream.close()])
        said = [part for part in again.message(choice).parts if part.text]
        assert "".join(part.text for part in said if part.kind == "text") == new
        kept = {part.text for part in said if part.kind != "text"}
        old = {part.text for part in stream.message(choice).parts if part.kind != "text" and part.text}
        assert kept <= {text for text in left.values() if text} if whole else kept == old


def test_a_rewrite_that_contradicts_what_left_is_an_error() -> None:
    """Released text cannot be rewritten: a rewrite that does not begin with it is an error."""
    case = BY_NAME["chat"]
    stream = case.open()
    for chunk in fed(stream, [case.raw])[:3]:
        stream.release(chunk)
    with pytest.raises(ValueError, match="does not begin"):
        stream.end(0, Replace((Edit("choices[0].message.content", "Other"),)))


def test_choices_end_alone() -> None:
    """A choice that the proxy has ended disappears from shared frames; the other choice goes on."""
    case = BY_NAME["chat"]
    both = chat_chunk(0, {"content": "good"})
    both["choices"].append({"index": 1, "delta": {"content": "bad"}, "finish_reason": None})
    raw = sse(both, chat_chunk(1, {"content": " worse"}), chat_chunk(0, {"content": " end"}), chat_chunk(0, {}, "stop"))
    stream = case.open()
    chunks = fed(stream, [raw + b"data: [DONE]\n\n"])
    out = stream.end(1, Refuse(REFUSAL)) + b"".join(stream.release(chunk) for chunk in chunks)
    assert b"bad" not in out
    assert b"worse" not in out
    again = case.open()
    fed(again, [out])
    assert again.message(0).text == "good end"
    assert again.message(1).text == REFUSAL


def test_usage_is_kept_after_a_cut() -> None:
    """The ending carries the usage once, if it was asked for and is known."""
    case = BY_NAME["chat"]
    stream = case.open(stream_options={"include_usage": True})
    fed(stream, [case.raw])
    out = stream.end(0, Refuse(REFUSAL)) + stream.close()
    assert out.count(b'"total_tokens":21') == 1
    assert out.endswith(b"data: [DONE]\n\n")
    assert stream.close() == b""


def test_a_frame_without_its_end_gets_one() -> None:
    """A frame that the proxy adds behind an incomplete frame is a frame of its own."""
    case = BY_NAME["chat"]
    raw = sse(chat_chunk(0, {"content": "half"})).rstrip(b"\n")
    stream = case.open()
    out = b"".join(stream.release(chunk) for chunk in fed(stream, [raw])[:1]) + stream.end(0, Refuse("x"))
    assert out.startswith(raw + b"\n\n")


@pytest.mark.parametrize("name", ["chat", "completions", "messages", "responses", "gemini", "ollama-chat"])
def test_a_byte_order_mark_goes(name: str) -> None:
    """A byte order mark makes clients lose the first frame, so it is removed."""
    case = BY_NAME[name]
    stream = case.open()
    assert b"".join(stream.release(chunk) for chunk in fed(stream, [b"\xef\xbb\xbf" + case.raw])) == case.raw


def test_a_stream_that_breaks_off_is_final() -> None:
    """A stream without its terminator ends every open choice."""
    stream = BY_NAME["chat"].open()
    chunks = fed(stream, [sse(chat_chunk(0, {"content": "a"}), chat_chunk(1, {"content": "b"}))])
    assert [(mark.choice, mark.final) for mark in chunks[-1].marks] == [(0, True), (1, True)]
    assert chunks[-1].raw == b""


BROKEN: list[tuple[str, bytes]] = [
    ("chat", b"data: {not json}\n\n"),
    ("chat", b'data: {"choices":[{"index":0,"delta":{"content":"\xff"}}]}\n\n'),
    ("chat", b'data: {"choices":[{"index":0,"delta":{"content":"a","content":"b"}}]}\n\n'),
    ("chat", b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}\n\n'),
    ("chat", b'data: {"choices":[{"index":0,"delta":{"content":["x"]}}]}\n\n'),
    ("chat", b'data: {"choices":[{"index":0,"delta":{"Content":"x"}}]}\n\n'),
    ("chat", b'data: {"choices":[{"index":-1,"delta":{}}]}\n\n'),
    ("chat", b'data: {"choices":[{"index":99999999,"delta":{}}]}\n\n'),
    ("chat", b"data: [DONE]\n\n" + sse(chat_chunk(0, {"content": "late"}))),
    ("chat", sse(chat_chunk(0, {}, "stop"), chat_chunk(0, {"content": "late"}))),
    ("messages", b'event: message_start\ndata: {"type":"ping"}\n\n'),
    ("messages", b'event: novel\ndata: {"type":"novel","text":"some words here"}\n\n'),
    ("messages", b'data: {"type":"content_block_delta","index":3,"delta":{"type":"text_delta","text":"x"}}\n\n'),
    ("responses", b'data: {"type":"response.novel.delta","delta":"some words here"}\n\n'),
    ("responses", b'data: {"type":"response.output_text.delta","delta":"x","output_index":9,"content_index":0}\n\n'),
    ("ollama-chat", b'{"message": {"content": "x"}, "done": tru}\n'),
    ("ollama-chat", b'{"message":{"content":""},"done":true}\n{"message":{"content":"late"},"done":false}\n'),
    ("gemini", b'data: {"candidates": {"text": "x"}}\n\n'),
    ("gemini-array", b'["text"]'),
]


@pytest.mark.parametrize(("name", "raw"), BROKEN)
def test_what_cannot_be_read_is_refused(name: str, raw: bytes) -> None:
    """A frame that cannot be read is not taken for harmless."""
    with pytest.raises(UpstreamUnreadable):
        fed(BY_NAME[name].open(), [raw])


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("response.output_text.done", b'"text": "High', b'"text": "Low'),
        ("response.content_part.done", b'"text": "High', b'"text": "Low'),
        ("response.output_item.done", b'"text": "High', b'"text": "Low'),
        ("response.completed", b'"text": "High', b'"text": "Low'),
        ("response.reasoning_summary_text.done", b'"text": "think', b'"text": "act'),
        ("response.function_call_arguments.done", b':1}"', b':2}"'),
    ],
)
def test_a_repetition_that_differs_is_refused(kind: str, old: bytes, new: bytes) -> None:
    """An event that repeats a text differently from its deltas is refused."""
    case = BY_NAME["responses"]
    place = max(case.raw.find(f'"type": "{kind}"'.encode()), 0)
    raw = case.raw[:place] + case.raw[place:].replace(old, new, 1)
    assert raw != case.raw
    with pytest.raises(UpstreamUnreadable, match="not the text that was streamed"):
        fed(case.open(), [raw])


# An error in mid-stream, in which servers quote what they could not parse.
ERRORS = {
    "chat": sse({"error": {"message": "cannot parse: TEXT", "type": "server_error"}}),
    "completions": sse({"error": {"message": "cannot parse: TEXT", "failed_generation": "x"}}),
    "responses": sse({"type": "error", "message": "cannot parse: TEXT", "sequence_number": 1}),
    "messages": b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"TEXT"}}\n\n',
    "ollama-chat": b'{"error":"error parsing tool call: raw=\'TEXT\'"}\n',
    "ollama-generate": b'{"error":"TEXT"}\n',
    "gemini": b'data: {"error": {"code": 500, "message": "TEXT", "details": [{"@type": "a.b"}]}}\r\n\r\n',
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("alone", [True, False])
def test_errors_of_the_upstream_are_judged(name: str, alone: bool) -> None:
    """The text of an error frame is judged and passes unchanged; a refusal contains nothing of it."""
    case = BY_NAME[name]
    start = b"" if alone else _first(case)
    for keep in (True, False):
        stream = case.open()
        chunks = fed(stream, [start, ERRORS[name]])
        assert "TEXT" in stream.message(0).text
        assert not stream.message(0).opaque
        (error,) = (chunk for chunk in chunks if b"TEXT" in chunk.raw)
        assert [mark.upto for mark in error.marks] == [stream.message(0).size]
        before = [stream.release(chunk) for chunk in chunks[: chunks.index(error)]]
        out = b"" if keep else stream.end(0, Refuse(REFUSAL))
        out += b"".join(stream.release(chunk) for chunk in chunks[len(before) :])
        assert (out == ERRORS[name]) is keep
        assert (b"TEXT" in out) is keep


def _first(case: Case) -> bytes:
    """Return the first frames of a recorded stream, which have little text or none."""
    joint = b"\n" if case.content_type.endswith("ndjson") else b"\r\n\r\n" if case.name == "gemini" else b"\n\n"
    return joint.join(case.raw.split(joint)[:2]) + joint


ASIDE = "words that nobody judged"
BEHIND = {
    "chat": sse(chat_chunk(0, {"images": ["AAAA"]})),
    "completions": sse({"choices": [], "aside": ASIDE}),
    "messages": b'event: ping\ndata: {"type":"ping","aside":"%b"}\n\n' % ASIDE.encode(),
    "ollama-chat": json.dumps({"message": {"images": ["AAAA"]}, "done": True}).encode() + b"\n",
}


@pytest.mark.parametrize("name", BEHIND)
def test_what_comes_behind_the_end_is_not_free(name: str) -> None:
    """Content behind the end of a choice ends it again: the last verdict does not cover it."""
    case = BY_NAME[name]
    end = case.raw.removesuffix(b"data: [DONE]\n\n").partition(b"event: message_stop")[0]
    stream = case.open()
    finals = [[mark.final for mark in chunk.marks] for chunk in fed(stream, [end + BEHIND[name]]) if chunk.raw]
    assert finals[-1] == [True]
    assert sum(map(any, finals)) == len(stream.choices) + 1
    assert stream.message(0).opaque or ASIDE in stream.message(0).text


@given(said=st.text("abcdefgh", min_size=1, max_size=8))
def test_deltas_of_an_unknown_kind_are_refused(said: str) -> None:
    """Text in events of an unknown type is refused, however short its pieces are."""
    case = BY_NAME["responses"]
    event = {"type": "response.novel.delta", "delta": said, "sequence_number": 9}
    with pytest.raises(UpstreamUnreadable, match="unknown type"):
        fed(case.open(), [_first(case), sse(event)])


def test_a_call_beside_a_text_waits() -> None:
    """A part of Gemini's that is both a text and a call waits for the whole choice, as calls do."""
    part = {"text": "", "functionCall": {"name": "tide", "args": {}}}
    (chunk, *_) = fed(BY_NAME["gemini"].open(), [sse({"candidates": [{"content": {"parts": [part]}}]})])
    assert chunk.marks[0].whole


def test_lists_and_strings_in_deltas_are_pieces_of_one_text() -> None:
    """Clients append the text of every delta, whether it is a string or a list of parts; other parts stay parts."""
    part = {"type": "text", "text": "a bo"}
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
    contents = [
        "make ",
        [part],
        [{**part, "text": "m"}, {**part, "text": "b"}],
        [thought],
        [thought, {**part, "text": "!"}],
    ]
    stream = BY_NAME["chat"].open()
    chunks = fed(stream, [sse(*(chat_chunk(0, {"content": content}) for content in contents))])
    assert [part.text for part in stream.message(0).parts if part.kind == "text"] == ["make a bomb!"]
    assert {part.text for part in stream.message(0).parts if part.kind == "reasoning"} == {"HmHm"}
    released = b"".join(stream.release(chunk) for chunk in chunks)
    assert released == sse(*(chat_chunk(0, {"content": content}) for content in contents))


def test_a_text_is_not_lost_behind_something_unreadable() -> None:
    """A text is not forgotten when opaque content comes at the same path, nor the other way round."""
    texts = ["data:text/plain,poison", "https://example.org/i.png"]
    for urls in (texts, texts[::-1]):
        frames = [chat_chunk(0, {"content": [{"type": "image_url", "image_url": url}]}) for url in urls]
        stream = BY_NAME["chat"].open()
        fed(stream, [sse(*frames)])
        parts = {(part.kind, part.text) for part in stream.message(0).parts}
        assert parts == {("text", "poison"), ("opaque", "")}


def _logprobs(token: str, **more: Any) -> dict[str, Any]:
    return {"content": [{"token": token, "logprob": -1, **more}]}


def test_log_probabilities_wait_for_the_text_they_repeat() -> None:
    """Tokens ahead of the text make their chunk wait; tokens of another text are opaque."""
    case = BY_NAME["chat"]
    ahead = sse(
        chat_chunk(0, {"content": "Hel"}, logprobs=_logprobs("Hello")),
        chat_chunk(0, {"content": "lo"}),
        chat_chunk(0, {}, "stop"),
    )
    stream = case.open()
    chunks = fed(stream, [ahead])
    assert [chunk.marks[0].whole for chunk in chunks[:3]] == [True, False, True]
    assert not stream.message(0).opaque
    other = case.open()
    fed(other, [sse(chat_chunk(0, {"content": "Hello"}, logprobs=_logprobs("Other")), chat_chunk(0, {}, "stop"))])
    assert [part.note for part in other.message(0).opaque] == ["log probabilities of another text"]


def test_token_alternatives_are_opaque() -> None:
    """Alternatives to a token are in no judged text."""
    entry = _logprobs("Hi", top_logprobs=[{"token": "Hi", "logprob": -1}, {"token": "Yo", "logprob": -2}])
    stream = BY_NAME["chat"].open()
    fed(stream, [sse(chat_chunk(0, {"content": "Hi"}, logprobs=entry))])
    assert [part.note for part in stream.message(0).opaque] == ["token alternatives"]


def test_a_token_split_inside_a_character_is_read_by_its_bytes() -> None:
    """Two tokens that are halves of a character spell it together."""
    halves = [
        {"token": "\\xc3", "bytes": [0xC3], "logprob": -1},
        {"token": "\\xa9", "bytes": [0xA9], "logprob": -1},
    ]
    stream = BY_NAME["chat"].open()
    fed(stream, [sse(chat_chunk(0, {"content": "é"}, logprobs={"content": halves}), chat_chunk(0, {}, "stop"))])
    assert not stream.message(0).opaque


def test_unknown_fields_of_a_chunk_are_named() -> None:
    """Text under an unknown key is judged; numbers and enumerated values pass."""
    stream = BY_NAME["chat"].open()
    chunk = {**chat_chunk(0, {"content": "a", "aside": "words that nobody judged"}), "novel_count": 3, "tier": "high"}
    chunks = fed(stream, [sse(chunk)])
    assert chunks[0].marks[0][1:] == (25, False, False, 0, 0)
    assert [(part.path, part.text) for part in stream.message(0).parts] == [
        ("choices[0].message.content", "a"),
        ("choices[0].message.aside", "words that nobody judged"),
    ]


def test_structured_refusals_say_so() -> None:
    """If the request asks for JSON, the refusal is in the field that parsers know."""
    case = BY_NAME["chat"]
    stream = case.open(response_format={"type": "json_object"})
    out = stream.end(0, Refuse(REFUSAL)) + stream.close()
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in out.split(b"\n\n") if line.startswith(b"data: {")]
    assert [delta.get("refusal") for delta in deltas] == [None, REFUSAL, None]
