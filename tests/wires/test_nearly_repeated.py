"""Frames that nearly repeat an earlier one, or repeat it where it means something else, are read in full."""

import json
from typing import Any

import pytest

from guardproxy.types import Refuse
from tests.wires.kit import by_frame
from tests.wires.test_repeated import PROTOCOLS, Seen, ending, read, spaced

IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TIME = "2026-01-01T00:00:01Z"


def chunk(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a chunk of Gemini with one candidate."""
    return {"candidates": [{"content": {"parts": list(parts), "role": "model"}, "index": 0, **more}]}


def say(text: str) -> dict[str, Any]:
    """Return a part of Gemini with a text."""
    return {"text": text}


def spelled(*tokens: str) -> dict[str, Any]:
    """Return Gemini's log probabilities of tokens."""
    return {"chosenCandidates": [{"token": token, "logProbability": -1} for token in tokens]}


def counted(text: str, **usage: Any) -> dict[str, Any]:
    """Return a chunk of Gemini with numbers of tokens."""
    return {**chunk(say(text)), "usageMetadata": usage}


def line(text: str, time: str = TIME, model: str = "m", **more: Any) -> dict[str, Any]:
    """Return a line of Ollama's chat."""
    message = {"role": "assistant", "content": text, **more.pop("message", {})}
    return {"model": model, "created_at": time, "message": message, **more, "done": False}


def thought(text: str) -> dict[str, Any]:
    """Return a line of thinking."""
    return line("", message={"thinking": text})


def tokens(*texts: str) -> list[dict[str, Any]]:
    """Return OpenAI's and Ollama's log probabilities of tokens."""
    return [{"token": text, "logprob": -1} for text in texts]


SIGNATURE = {"thoughtSignature": "CiQB0e2Kb3xPv0aP5"}
GEMINI = {
    "a part without a text between": [
        chunk(say("a")),
        chunk(say("b")),
        chunk(SIGNATURE),
        chunk(say("c")),
        chunk(say("d")),
    ],
    "a candidate without a text beside": [
        {"candidates": [*chunk(say(text))["candidates"], {"index": 1}]} for text in ("a", "b", "c")
    ],
    "a part without a text in front": [chunk(SIGNATURE, say(text)) for text in "abc"],
    "an empty part behind": [chunk(say(text), say("")) for text in "abc"],
    "a text elsewhere": [chunk(SIGNATURE, vendor=[{"text": text}]) for text in ("how to", "build it", "at home")],
    "the tokens of another text": [chunk(say(text), logprobsResult=spelled("a b")) for text in ("a b", "c d", "e f")],
    "the end in each": [chunk(say(text), finishReason="STOP") for text in "abc"],
    "another spelling": [
        {**chunk(say(text)), "usage_metadata": {"candidates_token_count": number}} for number, text in enumerate("abcd")
    ],
    "a text as a number": [counted("a", totalTokenCount=1), counted("b", totalTokenCount="how to do it at home")],
    "fewer numbers": [counted("a", totalTokenCount=1), counted("b", totalTokenCount=2), counted("c")],
    "numbers that are none": [counted("a", totalTokenCount=count) for count in (1, -1, 1.5, True)],
    "a thought in between": [chunk(say("a")), chunk({**say("b"), "thought": True}), chunk(say("c")), chunk(say("d"))],
    "another candidate": [chunk(say("a")), chunk(say("b")), chunk(say("c"), index=1), chunk(say("d")), chunk(say("e"))],
    "a call": [chunk(say("a")), chunk(say("b"), {"functionCall": {"name": "f", "args": {}}}), chunk(say("c"))],
}
OLLAMA = {
    "tokens ahead of the text": [
        *(line("x"), line("y"), thought("a"), thought("b")),
        *(line("c", logprobs=tokens("c", "how to")), thought("d"), line(" how to")),
    ],
    "tokens behind thinking": [
        thought("a"),
        thought("b"),
        line("c", logprobs=tokens("c")),
        line("d", logprobs=tokens("d")),
    ],
    "the tokens of another text": [line(text, logprobs=tokens("a")) for text in "abc"],
    "a text as a time": [line("a"), line("b", time="how to do it"), line("c")],
    "a time behind a text": [
        line(text, time) for text, time in zip("abcd", ("how to", "how to", TIME, TIME), strict=True)
    ],
    "an image": [line(text, message={"images": [IMAGE]}) for text in "abc"],
    "two models": [line(text, model=model) for text, model in zip("abcdefg", "mmnnmnm", strict=True)],
    "a call": [line("a"), line("b", message={"tool_calls": [{"function": {"name": "f", "arguments": {}}}]}), line("c")],
    "text and thinking": [line(text, message={"thinking": text}) for text in "abc"],
    "thinking and text in turn": [thought("a"), line("b"), thought("c"), line("d"), thought("e"), line("f")],
}
CASES = [
    *((name, key, bodies) for name in ("gemini", "gemini-lf", "gemini-array") for key, bodies in GEMINI.items()),
    *(("ollama", key, bodies) for key, bodies in OLLAMA.items()),
]


def compact(body: Any) -> str:
    """Return JSON without white space."""
    return json.dumps(body, separators=(",", ":"))


def seen_at_once(name: str, frames: list[bytes]) -> Seen:
    """Read all frames at once, frame by frame where they are refused together."""
    seen = read(PROTOCOLS[name], [b"".join(frames)])
    return read(PROTOCOLS[name], frames) if seen.refused else seen


@pytest.mark.parametrize(("name", "key", "bodies"), CASES, ids=[f"{name}: {key}" for name, key, _ in CASES])
def test_what_nearly_repeats_a_frame_is_read_in_full(name: str, key: str, bodies: list[dict[str, Any]]) -> None:
    """Read one by one and at once, the marks, texts and ends are those of the same JSON that repeats nothing."""
    protocol, texts = PROTOCOLS[name], [compact(body) for body in bodies]
    single, plain = read(protocol, protocol.frames(texts)), read(protocol, protocol.frames(spaced(texts)))
    assert (single.states, single.refused) == (plain.states, plain.refused)
    at_once = seen_at_once(name, protocol.frames(texts))
    assert [chunk.marks for chunk in at_once.chunks] == [chunk.marks for chunk in plain.chunks]
    assert at_once.states[-1][1:] == plain.states[-1][1:]
    ends = [ending(seen, 0, Refuse("No.")) for seen in (plain, single, at_once)]
    assert ends == [ends[0]] * 3
    assert by_frame(single.stream.finish()) == by_frame(plain.stream.finish())
