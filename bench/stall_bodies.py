"""The requests and replies that `bench.stalls` sends: their values, texts and frames cost a proxy much."""

import base64
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"

# --- the bodies ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Body:
    """A request: its path, its body (a GET without one), and the reply that the upstream gives."""

    name: str
    body: bytes
    path: str = CHAT
    reply: str = "short"


def user(content: Any, **more: Any) -> bytes:
    """A chat request with one user message."""
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], **more}).encode()


def nested(text: str, depth: int) -> str:
    """Text in base64, `depth` times."""
    for _ in range(depth):
        text = base64.b64encode(text.encode()).decode()
    return text


def with_field(value: bytes) -> bytes:
    """A chat request with a field that no protocol has, whose value is `value`."""
    return b'{"model":"m","messages":[{"role":"user","content":"hi"}],"x":' + value + b"}"


def conversation(count: int, characters: int, roles: Sequence[str] = ("user",)) -> list[dict[str, str]]:
    """`count` messages of different texts."""
    return [
        {"role": roles[n % len(roles)], "content": f"{n} {'hello there ' * characters}"[:characters]}
        for n in range(count)
    ]


WORDS = "The quick brown fox jumps over the lazy dog and naps in the sun. "
M = 1_000_000


def requests() -> Iterator[Body]:
    """The requests of the corpus."""
    both = ("user", "assistant")
    yield Body("one short message", user("hello"))
    yield Body("9,999 messages of 99 characters", _chat(conversation(9999, 99)))
    yield Body("9,999 turns of 99 characters", _chat(conversation(9999, 99, both)))
    yield Body("9,999 equal messages", _chat([{"role": "user", "content": "a"}] * 9999))
    yield Body("9,999 system messages", _chat(conversation(9999, 99, ("system",))))
    yield Body("100,000 parts of a message", user([{"type": "text", "text": f"part {n}"} for n in range(100_000)]))
    yield Body("100,000 parts of one letter", user([{"type": "text", "text": "a"}] * 100_000))
    yield Body("10,000 images", user([{"type": "image_url", "image_url": {"url": "https://a/b.png"}}] * 10_000))
    yield Body("1 MB of prose", user((WORDS * 20_000)[: M - 1]))
    yield Body("1 MB of one letter", user("a" * (M - 1)))
    yield Body("1 MB of one word", user(("bomb" * 250_000)[: M - 1]))
    yield Body("1 MB of short words", user(("a b " * 250_000)[: M - 1]))
    yield Body("1 MB of words of two letters", user(("ab " * 400_000)[: M - 1]))
    yield Body("1 MB of line breaks", user("\n" * (M - 1)))
    yield Body("1 MB of zero-width characters", user(("a\u200b" * 500_000)[: M - 1]))
    yield Body("1 MB of look-alikes", user(("\u0430\u0435\u043e " * 250_000)[: M - 1]))
    yield Body("1 MB of styled letters", user(("\U0001d400\U0001d401 " * 400_000)[: M - 1]))
    yield Body("1 MB of right-to-left overrides", user(("\u202eab\u202c " * 200_000)[: M - 1]))
    yield Body("1 MB of base64", user(nested(WORDS * 11_000, 1)[: M - 1]))
    yield Body("base64 inside base64, six times", user(nested(WORDS * 2_700, 6)[: M - 1]))
    yield Body("1 MB of short base64", user(((nested("hello world foo", 1) + " ") * 60_000)[: M - 1]))
    yield Body("1 MB of hexadecimal", user((WORDS.encode().hex() * 10_000)[: M - 1]))
    yield Body("1 MB of percent escapes", user(("%61%62" * 200_000)[: M - 1]))
    yield Body("1 MB of entities", user(("&#97;&#98;" * 200_000)[: M - 1]))
    yield Body("1 MB of \\u escapes", user(("\\u0061" * 200_000)[: M - 1]))
    yield Body("1 MB of base85", user((base64.b85encode(WORDS.encode()).decode() * 20_000)[: M - 1]))
    yield Body("1 MB of base58 words", user((("4" * 40 + " ") * 40_000)[: M - 1]))
    yield Body("1 MB of binary digits", user(("01100001 " * 120_000)[: M - 1]))
    yield Body("1 MB of leetspeak", user(("h0w t0 m4k3 " * 100_000)[: M - 1]))
    yield Body("1 MB of rot13", user(("gur dhvpx oebja sbk " * 60_000)[: M - 1]))
    yield Body("1 MB in Morse", user(("... --- ... / " * 90_000)[: M - 1]))
    yield Body("1 MB of brackets", user("[{" * 499_999))
    yield Body("1 MB of Chinese", user("\u4f60\u597d" * 499_999))
    yield Body("20 MB of []", with_field(b"[" + b"[]," * 6_900_000 + b"[]]"))
    yield Body("20 MB of {}", with_field(b"[" + b"{}," * 6_900_000 + b"{}]"))
    yield Body("20 MB of numbers", with_field(b"[" + b"0," * 10_000_000 + b"0]"))
    yield Body("20 MB of long numbers", with_field(b"[" + (b"9" * 4000 + b",") * 5_000 + b"0]"))
    yield Body("20 MB of empty strings", with_field(b"[" + b'"",' * 6_900_000 + b'""]'))
    yield Body("20 MB of escapes", with_field(b'"' + b"\\n" * 10_000_000 + b'"'))
    yield Body("20 MB in one string", with_field(b'"' + b"a" * 20_000_000 + b'"'))
    yield Body("one object of 200,000 keys", with_field(keys(200_000)))
    yield Body("100,000 floats", with_field(b"[" + b"1.5e3," * 100_000 + b"0]"))
    yield Body("199 levels, 4,000 times", with_field(b"[" + b",".join([b"[" * 190 + b"]" * 190] * 4000) + b"]"))
    yield Body("20,000 unknown strings", with_field(json.dumps([f"word{n} and more" for n in range(20_000)]).encode()))
    yield Body("40,000 identifiers", with_field(json.dumps({f"k{n}": f"id-{n:x}" for n in range(40_000)}).encode()))
    tools = [
        {"type": "function", "function": {"name": f"f{n}", "description": WORDS, "parameters": {"type": "object"}}}
        for n in range(8_000)
    ]
    yield Body("8,000 tools", user("hello", tools=tools))
    yield Body("an image of 15 MB", user([{"type": "image_url", "image_url": {"url": _image(15_000_000)}}]))
    source = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(os.urandom(14 * M)).decode()}
    pdf = [{"role": "user", "content": [{"type": "document", "source": source}]}]
    document = {"model": "m", "max_tokens": 9, "messages": pdf}
    yield Body("a PDF of 14 MB", json.dumps(document).encode(), "/v1/messages", "none")
    escapes = "data:text/plain," + "%41" * 6_000_000
    yield Body("6 million escapes in a data URL", user([{"type": "file", "file": {"file_data": escapes}}]))
    yield Body("500 KB of text as a data URL", user([{"type": "file", "file": {"file_data": _text_url(500_000)}}]))
    blocks = [{"type": "text", "text": f"part {n}"} for n in range(50_000)]
    anthropic = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": blocks}]}
    yield Body("Anthropic: 50,000 blocks", json.dumps(anthropic).encode(), "/v1/messages", "none")
    contents = [{"role": "user", "parts": [{"text": f"part {n}"}]} for n in range(9_999)]
    yield Body(
        "Gemini: 9,999 contents",
        json.dumps({"contents": contents}).encode(),
        "/v1beta/models/m:generateContent",
        "none",
    )
    items = [{"role": "user", "content": [{"type": "input_text", "text": f"part {n}"}]} for n in range(9_999)]
    yield Body("Responses: 9,999 items", json.dumps({"model": "m", "input": items}).encode(), "/v1/responses", "none")
    ollama = {"model": "m", "stream": False, "messages": conversation(9_999, 99)}
    yield Body("Ollama: 9,999 messages", json.dumps(ollama).encode(), "/api/chat", "none")
    prompts = {"model": "m", "prompt": [f"prompt {n}" for n in range(20_000)]}
    yield Body("completions: 20,000 prompts", json.dumps(prompts).encode(), "/v1/completions", "none")
    yield from _more_requests()
    yield from _own_apis()
    for name in REPLIES:
        if name not in ("short", "none"):
            chat = user("hello", stream=REPLIES[name][0] == SSE)
            yield Body(name, *_OTHERS.get(name, (chat, CHAT)), name)
    yield from _console()


def _more_requests() -> Iterator[Body]:
    """Deep and wide bodies, images in many messages, other paths, and headers."""
    image = {"type": "image_url", "image_url": {"url": _image(2_000)}}
    said = [{"role": "user", "content": [{"type": "text", "text": f"picture {n}"}, image]} for n in range(5_000)]
    yield Body("5,000 messages with an image", _chat(said))
    yield Body("1 MB of combining characters", user(("a" + "\u0301" * 20) * 47_000))
    yield Body("1 MB of one letter with accents", user("a" + "\u0301" * 999_990))
    yield Body("1 MB of Hangul letters", user("\u1112\u1161\u11ab" * 333_000))
    yield Body("1 MB of emoji", user(("\U0001f468\u200d\U0001f469\u200d\U0001f467 " * 200_000)[: M - 1]))
    yield Body("1 MB of letters apart", user(("b o m b  " * 120_000)[: M - 1]))
    yield Body("1 MB of markup", user(("<b>a</b>" * 130_000)[: M - 1]))
    yield Body("1 MB of quotes", user(('"\\\\' * 330_000)[: M - 1]))
    yield Body("1 MB of JSON in a text", user(json.dumps([{"text": f"part {n}"} for n in range(48_000)])[: M - 1]))
    yield Body("1 MB of links", user(("https://a.example/b?c=d%20e " * 40_000)[: M - 1]))
    called = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"a": WORDS * 10})}}
    yield Body(
        "1,500 tool calls",
        _chat(
            [
                item
                for n in range(1_500)
                for item in (
                    {"role": "assistant", "tool_calls": [{**called, "id": f"c{n}"}]},
                    {"role": "tool", "tool_call_id": f"c{n}", "content": f"result {n}"},
                )
            ]
        ),
    )
    nested_calls = json.dumps({"a": json.dumps({"b": json.dumps({"c": [WORDS] * 2_000})})})
    deep = {"id": "c", "type": "function", "function": {"name": "f", "arguments": nested_calls}}
    yield Body("JSON in JSON in arguments", _chat([{"role": "assistant", "tool_calls": [deep]}]))
    schema: dict[str, Any] = {"type": "string", "description": WORDS}
    for _ in range(90):
        schema = {
            "type": "object",
            "properties": {f"p{n}": schema if n == 0 else {"type": "string"} for n in range(20)},
        }
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    yield Body("a tool of 90 levels", user("hello", tools=[tool] * 10))
    yield Body("2,000 stop sequences", user("hello", stop=[f"stop {n} here" for n in range(2_000)]))
    yield Body("100,000 biases", user("hello", logit_bias={str(n): 1 for n in range(100_000)}))
    inputs = [f"text {n}" for n in range(9_999)]
    vectors = {"model": "m", "input": inputs}
    yield Body("embeddings: 9,999 texts", json.dumps(vectors).encode(), "/v1/embeddings", "vectors")
    stored = json.dumps({"model": "m", "previous_response_id": "resp_1", "input": inputs[0] * 50_000}).encode()
    yield Body("Responses: behind another one", stored, "/v1/responses", "none")
    yield Body("a stored response of 9,999 items", b"", "/v1/responses/resp_1", "stored response")
    yield Body("the items of a stored response", b"", "/v1/responses/resp_1/input_items", "stored items")


def _own_apis() -> Iterator[Body]:
    """What the guard's own APIs get: many texts, long ones, and long contexts."""
    many, few = [f"text {n} of many" for n in range(9_999)], [(WORDS * 800)[:49_000]] * 20
    for what, texts in (("9,999 texts", many), ("20 long texts", few)):
        said = [{"role": "user", "content": text} for text in texts]
        check = {"messages": [{"role": "user", "parts": [{"text": text}]} for text in texts]}
        parts = {"messages": [{"role": "user", "parts": [{"text": text} for text in texts]}], "policy": "default"}
        litellm = {"input_type": "request", "texts": texts, "structured_messages": said}
        reply = {"input_type": "response", "texts": texts, "litellm_call_id": "c1"}
        other = {"input_type": "request", "texts": texts, "structured_messages": said[:-1]}
        content = [{"text": {"text": text}} for text in texts]
        nemo = [*said[:-1], {"role": "assistant", "content": texts[-1]}]
        bodies: dict[str, tuple[str, Any]] = {
            "check, a context of": ("/v1/check", check),
            "check with a policy, parts:": ("/v1/check", parts),
            "moderations:": ("/v1/moderations", {"input": texts}),
            "moderations, parts:": ("/v1/moderations", {"input": [{"type": "text", "text": text} for text in texts]}),
            "LiteLLM, a request of": ("/beta/litellm_basic_guardrail_api", litellm),
            "LiteLLM, a reply of": ("/beta/litellm_basic_guardrail_api", reply),
            "LiteLLM, other messages:": ("/beta/litellm_basic_guardrail_api", other),
            "NeMo, a request of": ("/v1/checks", {"model": "m", "messages": said}),
            "NeMo, a reply behind": ("/v1/checks", {"model": "m", "messages": nemo}),
            "Bedrock:": (
                "/guardrail/g/version/1/apply",
                {"source": "INPUT", "outputScope": "FULL", "content": content},
            ),
        }
        for name, (path, body) in bodies.items():
            yield Body(f"{name} {what}", json.dumps(body).encode(), path)


def _console() -> Iterator[Body]:
    """The reviewer's page behind everything else, so that it has large records to show."""
    for path in ("feed", "feed.json", "feed.csv", "overview", "workbench", "queue", "exclusions", "store"):
        yield Body(f"console: {path}", b"", f"/guardproxy/{path}")
    yield Body("metrics", b"", "/metrics")


def _chat(messages: Sequence[Mapping[str, Any]]) -> bytes:
    return json.dumps({"model": "m", "messages": messages}).encode()


def _image(size: int) -> str:
    return "data:image/png;base64," + base64.b64encode(os.urandom(size)).decode()


def _text_url(size: int) -> str:
    return "data:text/plain;base64," + base64.b64encode((WORDS * 20_000)[:size].encode()).decode()


# --- the replies -----------------------------------------------------------------------------------------------------

SSE = "text/event-stream"
JSON = "application/json"
HEAD = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m"}


def completion(*texts: str, **more: Any) -> bytes:
    """A whole chat completion with these choices."""
    choices = [
        {"index": n, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", **more}
        for n, text in enumerate(texts)
    ]
    return json.dumps({**HEAD, "choices": choices}).encode()


def called(count: int) -> bytes:
    """A chat completion with many tool calls."""
    calls = [
        {"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": json.dumps({"a": f"word {n}"})}}
        for n in range(count)
    ]
    choice = {"index": 0, "message": {"role": "assistant", "tool_calls": calls}, "finish_reason": "tool_calls"}
    return json.dumps({**HEAD, "choices": [choice]}).encode()


def frame(choice: int, delta: Mapping[str, str], finish: str | None = None) -> bytes:
    """A frame of a streamed chat completion."""
    body = {**HEAD, "choices": [{"index": choice, "delta": delta, "finish_reason": finish}]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def stream(texts: Sequence[str], choices: int = 1) -> bytes:
    """A stream whose choices get the texts in turn."""
    frames = [frame(n % choices, {"content": text}) for n, text in enumerate(texts)]
    return b"".join([*frames, *(frame(n, {}, "stop") for n in range(choices)), DONE])


def logprobs(count: int) -> dict[str, Any]:
    """Log probabilities of `count` tokens with 20 alternatives each."""
    entry = {"token": "a ", "logprob": -0.1, "bytes": [97, 32]}
    return {"content": [{**entry, "top_logprobs": [entry] * 20} for _ in range(count)]}


def wide_frame(choices: int) -> bytes:
    """A frame that has a text for each of many choices."""
    every = [{"index": n, "delta": {"content": f"word {n}"}, "finish_reason": "stop"} for n in range(choices)]
    return b"data: " + json.dumps({**HEAD, "choices": every}).encode() + b"\n\n"


def tool_frames(calls: int) -> bytes:
    """A stream of tool calls, each in two frames."""
    frames = []
    for n in range(calls):
        for function in ({"name": "f", "arguments": ""}, {"arguments": json.dumps({"a": f"word {n} and more"})}):
            call = {"index": n, "id": f"c{n}", "type": "function", "function": function}
            choice = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}
            frames.append(b"data: " + json.dumps({**HEAD, "choices": [choice]}).encode() + b"\n\n")
    return b"".join([*frames, frame(0, {}, "stop"), DONE])


def wide_logprobs(count: int) -> bytes:
    """A stream with a frame of many log probabilities."""
    choice = {"index": 0, "delta": {"content": "a " * count}, "finish_reason": "stop", "logprobs": logprobs(count)}
    return b"data: " + json.dumps({**HEAD, "choices": [choice]}).encode() + b"\n\n" + DONE


def frame_with(value: bytes) -> bytes:
    """A stream with a frame that has a field of no protocol."""
    head = b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}],"x":'
    return head + value + b"}\n\n" + DONE


def keys(count: int) -> bytes:
    """An object of many keys."""
    return b"{%b}" % b",".join(b'"k%d":1' % n for n in range(count))


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """The data in pieces of `size` bytes."""
    return (data[start : start + size] for start in range(0, len(data), size))


def two_fields(count: int) -> bytes:
    """A stream in which text and reasoning alternate."""
    frames = (frame(0, {("content", "reasoning_content")[n % 2]: "word "}) for n in range(count))
    return b"".join([*frames, frame(0, {}, "stop"), DONE])


def vectors(count: int) -> bytes:
    """Embeddings of 300 dimensions."""
    data = [{"object": "embedding", "index": n, "embedding": [0.001 * d for d in range(300)]} for n in range(count)]
    return json.dumps({"object": "list", "data": data, "model": "m"}).encode()


def items(count: int) -> list[dict[str, Any]]:
    """Messages of a stored response."""
    return [
        {
            "type": "message",
            "id": f"m{n}",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": f"part {n}", "annotations": []}],
        }
        for n in range(count)
    ]


def stored_response(count: int) -> bytes:
    """A response as its upstream keeps it."""
    head = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": "completed"}
    return json.dumps({**head, "output": items(count)}).encode()


def blocks(count: int) -> bytes:
    """A stream of Anthropic's with so many blocks of text."""
    message = {"id": "m", "role": "assistant", "content": []}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    for n in range(count):
        text = {"type": "text_delta", "text": f"word {n} of many. "}
        events.append({"type": "content_block_start", "index": n, "content_block": {"type": "text", "text": ""}})
        events.append({"type": "content_block_delta", "index": n, "delta": text})
        events.append({"type": "content_block_stop", "index": n})
    events += [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {"type": "message_stop"}]
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def event_of_calls(count: int) -> bytes:
    """An event of Gemini's with so many calls of functions."""
    calls = [{"functionCall": {"name": "f", "args": {"a": f"word {n} of many here"}}} for n in range(count)]
    candidate = {"content": {"role": "model", "parts": calls}, "finishReason": "STOP", "index": 0}
    return b"data: " + json.dumps({"candidates": [candidate]}).encode() + b"\r\n\r\n"


def event_of_candidates(count: int) -> bytes:
    """An event of Gemini's with so many short answers; every second one has what the guard looks for."""
    texts = (f"never in any body {'1' * 40}" if n % 2 else f"word {n} of many. " for n in range(count))
    candidates = [
        {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP", "index": n}
        for n, text in enumerate(texts)
    ]
    return b"data: " + json.dumps({"candidates": candidates}).encode() + b"\r\n\r\n"


# The requests for the replies of other protocols.
_OTHERS = {
    "Gemini: event of 1,000 candidates": (
        json.dumps({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}).encode(),
        "/v1beta/models/m:streamGenerateContent?alt=sse",
    ),
    "Anthropic: stream of 5,000 blocks": (
        json.dumps({"model": "m", "max_tokens": 9, "stream": True, "messages": conversation(1, 20)}).encode(),
        "/v1/messages",
    ),
    "Gemini: event of 5,000 calls": (
        json.dumps({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}).encode(),
        "/v1beta/models/m:streamGenerateContent?alt=sse",
    ),
}

REPLIES: dict[str, tuple[str, Callable[[], Iterator[bytes]]]] = {
    "short": (JSON, lambda: iter([completion("hello")])),
    "none": (JSON, lambda: iter([b"{}"])),
    "reply of 1 MB": (JSON, lambda: iter([completion((WORDS * 20_000)[:M])])),
    "reply of 10 MB": (JSON, lambda: iter([completion(WORDS * 150_000)])),
    "reply of 1,000 choices": (JSON, lambda: iter([completion(*(f"{n} {WORDS}" for n in range(1000)))])),
    "reply with 2,000 log probabilities": (JSON, lambda: iter([completion("a " * 2000, logprobs=logprobs(2000))])),
    "reply of 20 MB of []": (JSON, lambda: iter([b"[" + b"[]," * 6_900_000 + b"[]]"])),
    "vectors": (JSON, lambda: iter([vectors(1_000)])),
    "stored response": (JSON, lambda: iter([stored_response(9_999)])),
    "stored items": (JSON, lambda: iter([json.dumps({"object": "list", "data": items(9_999)}).encode()])),
    "reply of 10,000 choices": (JSON, lambda: iter([completion(*(f"reply {n}" for n in range(10_000)))])),
    "reply of 5,000 tool calls": (JSON, lambda: iter([called(5_000)])),
    "Anthropic: stream of 5,000 blocks": (SSE, lambda: cut(blocks(5_000), 65536)),
    "Gemini: event of 1,000 candidates": (SSE, lambda: iter([event_of_candidates(1_000)])),
    "Gemini: event of 5,000 calls": (SSE, lambda: iter([event_of_calls(5_000)])),
    "stream of 1,000 frames": (SSE, lambda: iter([stream([WORDS[:20]] * 1_000)])),
    "stream of 20,000 frames of a word": (SSE, lambda: cut(stream(["word "] * 20_000), 65536)),
    "stream of 1 MB in one frame": (SSE, lambda: iter([stream([(WORDS * 20_000)[:M]])])),
    "stream of 5,000 frames, one write": (SSE, lambda: iter([stream(["word "] * 5_000)])),
    "stream of 2 alternating choices": (SSE, lambda: cut(stream(["word "] * 4_000, 2), 65536)),
    "stream of 100 choices": (SSE, lambda: cut(stream(["word "] * 5_000, 100), 65536)),
    "stream of 1,000 choices": (SSE, lambda: cut(stream(["word "] * 3_000, 1000), 65536)),
    "stream of 20,000 choices": (SSE, lambda: cut(stream(["word "] * 20_000, 20_000), 65536)),
    "stream with a frame of 10,000 choices": (SSE, lambda: iter([wide_frame(10_000), DONE])),
    "stream of 20 frames of 50 KB": (SSE, lambda: iter([stream([(WORDS * 800)[:49_000]] * 20)])),
    "stream of 1 MB of base64 in one frame": (SSE, lambda: iter([stream([nested(WORDS * 11_000, 1)[: M - 1]])])),
    "stream of 2,000 tool calls": (SSE, lambda: cut(tool_frames(2_000), 65536)),
    "stream with 20 MB of log probabilities": (SSE, lambda: cut(wide_logprobs(7_000), 65536)),
    "stream with a frame of 10 MB of {}": (SSE, lambda: cut(frame_with(b"[" + b"{}," * 3_000_000 + b"{}]"), 65536)),
    "stream with a frame of 200,000 keys": (SSE, lambda: cut(frame_with(keys(200_000)), 65536)),
    "stream of text and reasoning": (SSE, lambda: cut(two_fields(4_000), 65536)),
    "stream in pieces of a byte": (SSE, lambda: cut(stream(["word "] * 300), 1)),
    "stream of 200,000 comments": (SSE, lambda: cut(b": comment\n\n" * 200_000 + stream(["hi"]), 65536)),
    "stream of 200,000 empty events": (SSE, lambda: cut(b"\n" * 400_000 + stream(["hi"]), 65536)),
    "stream with a line of 20 MB": (SSE, lambda: cut(b"data: " + b"a" * 20_000_000 + b"\n\n", 65536)),
    "stream of one event of 1M lines": (SSE, lambda: cut(b"data: 1\n" * 1_000_000 + b"\n", 65536)),
}
