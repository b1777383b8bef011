"""Streams in the shapes of providers: what each sends beside the text, up to the end of the text.

Written after their public API references and the recorded streams in issues of public clients. The words are ours.
"""

import json
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

_TEXT = "The river ran past the old mill and on to the sea, and nobody saw it leave."
WORDS = _TEXT.split()
LENGTH = 200  # frames with text in a stream
_HEAD = {"id": "chatcmpl-8dWq2LzX0vYbT4nRkJ1s", "object": "chat.completion.chunk", "created": 1, "model": "a-model"}
_SOURCES = {
    "citations": ["https://en.wikipedia.org/wiki/Mill", "https://www.britannica.com/technology/mill"],
    "search_results": [
        {"title": "The old mill by the river", "url": "https://en.wikipedia.org/wiki/Mill", "date": None}
    ],
}
_SIGNATURE = "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds" * 3
_draw = Random(5)


def word(number: int) -> str:
    """Return a piece of the text."""
    return f"{WORDS[number % len(WORDS)]} "


def _padding(number: int) -> str:
    return "".join(_draw.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=_draw.randint(2, 16)))


def _sse(body: Any, name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + f"data: {json.dumps(body)}\n\n".encode()


# --- chat completions ------------------------------------------------------------------------------------------------


def _chunks(delta: Callable[[int], dict[str, Any]], choice: Any = None, **more: Any) -> list[bytes]:
    """Return chunks with a delta each; a value that is a function gets the chunk's number."""
    frames = []
    for number in range(LENGTH):
        entry = {"index": 0, "delta": delta(number), "finish_reason": None, **(choice(number) if choice else {})}
        beside = {key: item(number) if callable(item) else item for key, item in more.items()}
        frames.append(_sse({**_HEAD, "choices": [entry], **beside}))
    return frames


def _content(number: int) -> dict[str, Any]:
    return {"content": word(number)}


def _detail(number: int) -> dict[str, Any]:
    detail = {"type": "reasoning.text", "text": word(number), "format": "unknown", "index": 0}
    return {"role": "assistant", "content": "", "reasoning": word(number), "reasoning_details": [detail]}


def _summary(number: int) -> dict[str, Any]:
    """As OpenRouter sends OpenAI's reasoning, which ends with encrypted data and is followed by the answer."""
    if number > 40:
        return {"role": "assistant", "content": word(number), "reasoning": None, "reasoning_details": []}
    if number == 40:
        details = [
            {"type": "reasoning.encrypted", "data": "gAAAAABo" * 20, "format": "openai-responses-v1", "index": 0}
        ]
        return {"role": "assistant", "content": "", "reasoning": None, "reasoning_details": details}
    details = [{"type": "reasoning.summary", "summary": word(number), "format": "openai-responses-v1", "index": 0}]
    return {"role": "assistant", "content": "", "reasoning": word(number), "reasoning_details": details}


def _thinking(number: int) -> dict[str, Any]:
    if number > 40:
        return {"content": word(number)}
    return {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": word(number)}]}]}


def _reference(number: int) -> dict[str, Any]:
    return {"content": [{"type": "reference", "reference_ids": [1, 2]}] if number == 30 else word(number)}


def _databricks(number: int) -> dict[str, Any]:
    parts = [{"type": "reasoning", "summary": [{"type": "summary_text", "text": word(number)}]}]
    return {"role": "assistant", "content": parts if number < 40 else word(number)}


def _compound(number: int) -> dict[str, Any]:
    tool = {"index": 0, "type": "search", "arguments": '{"query": "the old mill"}', "output": "A mill by a river."}
    return {"content": word(number), **({"executed_tools": [tool]} if number == 30 else {})}


def _annotated(number: int) -> dict[str, Any]:
    cited = {"title": "The old mill", "url": "https://example.org/mill", "start_index": 3, "end_index": 9}
    annotations = [{"type": "url_citation", "url_citation": cited}]
    return {"content": word(number), **({"annotations": annotations} if number == 30 else {})}


def _so_far(number: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": "".join(word(n) for n in range(number + 1))}
    return {"message": message}


_FILTERS = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
CHAT: dict[str, list[bytes]] = {
    "OpenAI": _chunks(_content, service_tier="default", system_fingerprint="fp_293", usage=None, obfuscation=_padding),
    "Azure": _chunks(_content, lambda _: {"content_filter_results": _FILTERS}, obfuscation=_padding),
    "OpenAI, web search": _chunks(_annotated),
    "Groq": _chunks(_content, x_groq={"id": "req_01jbd6g2qdfw2adyrt2az8hz4w"}),
    "Groq, compound": _chunks(_compound),
    "Together": _chunks(lambda n: {"token_id": 791, **_content(n)}, lambda n: {"text": word(n)}),
    "OpenRouter": _chunks(
        lambda n: {"role": "assistant", "content": word(n), "reasoning": None, "reasoning_details": []},
        lambda _: {"native_finish_reason": None, "logprobs": None},
        provider="DeepInfra",
    ),
    "OpenRouter, reasoning": _chunks(_detail, provider="Z.AI"),
    "OpenRouter, summary": _chunks(_summary, provider="OpenAI"),
    "MiniMax": _chunks(lambda n: {key: item for key, item in _detail(n).items() if key != "reasoning"}),
    "DeepSeek": _chunks(lambda n: {"content": None, "reasoning_content": word(n)}),
    "vLLM": _chunks(lambda n: {"reasoning": word(n), "reasoning_content": word(n)}, lambda _: {"token_ids": None}),
    "Envoy before Bedrock": _chunks(lambda n: {"role": "assistant", "reasoning_content": {"text": word(n)}}),
    "llama.cpp": _chunks(_content, timings=lambda n: {"prompt_n": 1, "predicted_n": n, "predicted_ms": 3.5 + n}),
    "Mistral": _chunks(_content, p=lambda n: "abcdefghijklmnopqrstuvwxyz"[: 1 + n % 26]),
    "Mistral, reasoning": _chunks(_thinking),
    "Mistral, reference": _chunks(_reference),
    "Databricks, reasoning": _chunks(_databricks),
    "Perplexity": _chunks(
        lambda n: {"role": "assistant", **_content(n)}, _so_far, usage=lambda n: {"total_tokens": n}, **_SOURCES
    ),
    "xAI": _chunks(_content, usage=lambda n: {"completion_tokens": n}),
    "Zhipu, web search": _chunks(_content, web_search=lambda n: [{"title": "A mill."}] if n == 9 else None),
    "a server with texts of its own": _chunks(_content, note=lambda n: f"The guide says word {n} of the tale."),
}


# --- Responses -------------------------------------------------------------------------------------------------------


class _Events:
    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def add(self, kind: str, **body: Any) -> None:
        self.frames.append(_sse({"type": kind, **body, "sequence_number": len(self.frames)}, kind))


def _responses(items: Iterable[Callable[[_Events, int], None]]) -> list[bytes]:
    events = _Events()
    response = {"id": "resp_1", "object": "response", "status": "in_progress", "model": "a-model", "output": []}
    events.add("response.created", response=response)
    events.add("response.in_progress", response=response)
    for index, item in enumerate(items):
        item(events, index)
    return events.frames


def _message(events: _Events, index: int, annotated: bool = False) -> None:
    where = {"item_id": f"msg_{index}", "output_index": index, "content_index": 0}
    head = {"type": "message", "id": f"msg_{index}", "role": "assistant", "status": "in_progress", "content": []}
    events.add("response.output_item.added", output_index=index, item=head)
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    events.add("response.content_part.added", **where, part=part)
    for number in range(LENGTH):
        more = {"logprobs": [], "obfuscation": _padding(number)}
        events.add("response.output_text.delta", **where, delta=word(number), **more)
        if annotated and number == 30:
            cited = {"type": "url_citation", "title": "The old mill", "url": "https://example.org/mill"}
            events.add("response.output_text.annotation.added", **where, annotation_index=0, annotation=cited)


def _annotated_message(events: _Events, index: int) -> None:
    _message(events, index, annotated=True)


def _reasoning(summary: bool, encrypted: str = "") -> Callable[[_Events, int], None]:
    def add(events: _Events, index: int) -> None:
        text, where = "".join(word(number) for number in range(40)), {"item_id": "rs_1", "output_index": index}
        item: dict[str, Any] = {"id": "rs_1", "type": "reasoning", "summary": []}
        events.add("response.output_item.added", output_index=index, item=item)
        if summary:
            place, name = {**where, "summary_index": 0}, "response.reasoning_summary"
            events.add(f"{name}_part.added", **place, part={"type": "summary_text", "text": ""})
            for number in range(40):
                events.add(f"{name}_text.delta", **place, delta=word(number))
            events.add(f"{name}_text.done", **place, text=text)
            item = {**item, "summary": [{"type": "summary_text", "text": text}]}
            events.add(f"{name}_part.done", **place, part=item["summary"][0])
        item = {**item, **({"encrypted_content": encrypted} if encrypted else {})}
        events.add("response.output_item.done", output_index=index, item=item)

    return add


def _web_search(events: _Events, index: int) -> None:
    item: dict[str, Any] = {"id": "ws_1", "type": "web_search_call", "status": "in_progress"}
    events.add("response.output_item.added", output_index=index, item=item)
    for state in ("in_progress", "searching", "completed"):
        events.add(f"response.web_search_call.{state}", output_index=index, item_id="ws_1")
    action = {"type": "search", "query": "the old mill by the river"}
    events.add("response.output_item.done", output_index=index, item={**item, "status": "completed", "action": action})


def _code(events: _Events, index: int) -> None:
    where, name = {"item_id": "ci_1", "output_index": index}, "response.code_interpreter_call"
    item: dict[str, Any] = {"id": "ci_1", "type": "code_interpreter_call", "container_id": "cntr_1", "code": ""}
    events.add("response.output_item.added", output_index=index, item=item)
    events.add(f"{name}_code.delta", **where, delta="print(1 + 1)")
    events.add(f"{name}_code.done", **where, code="print(1 + 1)")
    events.add(f"{name}.completed", **where)
    events.add("response.output_item.done", output_index=index, item={**item, "code": "print(1 + 1)"})


RESPONSES = {
    "text": _responses([_message]),
    "annotations": _responses([_annotated_message]),
    "reasoning": _responses([_reasoning(summary=False), _message]),
    "summary of the reasoning": _responses([_reasoning(summary=True), _message]),
    "encrypted reasoning": _responses([_reasoning(summary=True, encrypted="gAAAAABo" * 30), _message]),
    "web search": _responses([_reasoning(summary=True), _web_search, _message]),
    "code": _responses([_code, _message]),
    "two messages": _responses([_message, _message]),
}


# --- Messages --------------------------------------------------------------------------------------------------------


def _messages(blocks: Iterable[tuple[dict[str, Any], list[dict[str, Any]]]]) -> list[bytes]:
    usage = {"input_tokens": 3, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "a-model", "content": [], "usage": usage}
    bodies: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    for index, (block, deltas) in enumerate(blocks):
        bodies.append({"type": "content_block_start", "index": index, "content_block": block})
        bodies += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        bodies.append({"type": "content_block_stop", "index": index})
    return [_sse(body, body["type"]) for body in bodies]


_TEXTS = [{"type": "text_delta", "text": word(number)} for number in range(LENGTH)]
_TEXT_BLOCK: tuple[dict[str, Any], list[dict[str, Any]]] = ({"type": "text", "text": ""}, _TEXTS)
_CITED = {
    "type": "web_search_result_location",
    "cited_text": "The mill.",
    "title": "Mill",
    "encrypted_index": "Eo8BCioI",
}
_CITATION = {"type": "citations_delta", "citation": {**_CITED, "url": "https://example.org/mill"}}
_RESULT = {"type": "web_search_result", "title": "Mill", "url": "https://example.org", "encrypted_content": _SIGNATURE}
MESSAGES = {
    "text": _messages([_TEXT_BLOCK]),
    "thinking": _messages(
        [
            (
                {"type": "thinking", "thinking": "", "signature": ""},
                [
                    *({"type": "thinking_delta", "thinking": word(n)} for n in range(40)),
                    {"type": "signature_delta", "signature": _SIGNATURE},
                ],
            ),
            _TEXT_BLOCK,
        ]
    ),
    "redacted thinking": _messages([({"type": "redacted_thinking", "data": _SIGNATURE}, []), _TEXT_BLOCK]),
    "citations": _messages([({"type": "text", "text": "", "citations": []}, [*_TEXTS[:30], _CITATION, *_TEXTS[30:]])]),
    "web search": _messages(
        [
            ({"type": "text", "text": ""}, _TEXTS[:9]),
            (
                {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
                [{"type": "input_json_delta", "partial_json": piece} for piece in ("", '{"query": "old', ' mill"}')],
            ),
            ({"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [_RESULT]}, []),
            ({"type": "text", "text": "", "citations": []}, [*_TEXTS[:30], _CITATION, *_TEXTS[30:]]),
        ]
    ),
}


# --- Gemini and Ollama -----------------------------------------------------------------------------------------------


def _candidates(part: Callable[[int], dict[str, Any]], more: Callable[[int], dict[str, Any]]) -> list[bytes]:
    frames = []
    for number in range(LENGTH):
        content = {"role": "model", "parts": [part(number)]}
        body = {
            "candidates": [{"content": content, "index": 0, **more(number)}],
            "usageMetadata": {"totalTokenCount": 3},
        }
        frames.append(f"data: {json.dumps({**body, 'modelVersion': 'gemini-2.5-flash'})}\r\n\r\n".encode())
    return frames


def _none(number: int) -> dict[str, Any]:
    return {}


def _grounding(first: int, last: int) -> Callable[[int], dict[str, Any]]:
    found = {
        "webSearchQueries": ["the old mill"],
        "groundingChunks": [{"web": {"uri": "https://a.org", "title": "Mill"}}],
    }
    return lambda number: {"groundingMetadata": found} if first <= number <= last else {}


def _run(number: int) -> dict[str, Any]:
    if number == 30:
        return {"executableCode": {"language": "PYTHON", "code": "print(1 + 1)"}}
    return {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "2"}} if number == 31 else {"text": word(number)}


_IMAGE = {"mimeType": "image/png", "data": "iVBORw0KGgo="}
_CITES = {"citationMetadata": {"citationSources": [{"startIndex": 0, "endIndex": 40, "uri": "https://a.org/mill"}]}}
GEMINI = {
    "text": _candidates(lambda n: {"text": word(n)}, _none),
    "thoughts": _candidates(lambda n: {"text": word(n), **({"thought": True} if n < 40 else {})}, _none),
    "signature": _candidates(
        lambda n: {"text": word(n), **({"thoughtSignature": _SIGNATURE} if n == 9 else {})}, _none
    ),
    "citation": _candidates(lambda n: {"text": word(n)}, lambda n: _CITES if n == 30 else {}),
    "grounding": _candidates(lambda n: {"text": word(n)}, _grounding(30, 30)),
    "grounding in every frame": _candidates(lambda n: {"text": word(n)}, _grounding(0, LENGTH)),
    "code": _candidates(_run, _none),
    "image": _candidates(
        lambda n: {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}} if n == 30 else {"text": word(n)},
        _none,
    ),
}
OLLAMA = {
    "text": [
        json.dumps(
            {"model": "m", "created_at": f"2026-01-01T00:00:{n % 60:02}Z", "done": False}
            | {"message": {"role": "assistant", "content": word(n), **({"thinking": word(n)} if n < 40 else {})}}
        ).encode()
        + b"\n"
        for n in range(LENGTH)
    ]
}
