"""A reader of a proxied answer, and readers of bytes, lines and events: httpx, httpx-sse and requests.

A reader adds to a `Sight` all that it gives to its user: texts joined as its documentation joins them, and every string
of its objects. A reader that raises shows the text of its error, and nothing more.
"""

import contextlib
import importlib
import importlib.util
import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import anthropic
import httpx
import ollama
import openai
import requests
from google import genai

from tests.conformance.speech import PROTOCOLS, SSE, plain
from tests.differential.kit import Sight

# What a reader raises if it cannot read an answer, or if the answer is an error.
FAILURES = (
    openai.OpenAIError,
    anthropic.AnthropicError,
    ollama.ResponseError,
    genai.errors.APIError,
    httpx.HTTPError,
    requests.RequestException,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
)
PROMPT = "hello"
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Reader:
    """A way to read an answer of a protocol. `run` asks the proxy at a URL and adds to a sight what it shows."""

    name: str
    protocol: str
    stream: bool
    run: Callable[[str, Sight], None]

    def read(self, url: str) -> Sight:
        """Ask, and return everything that the reader has shown, until its end or its failure."""
        sight = Sight()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.run(url, sight)
            except FAILURES as error:
                sight.add("error", str(error))
                sight.add("body of an error", getattr(error, "body", None))
        return sight


# --- readers of bytes, lines and events ------------------------------------------------------------------------------


@cache
def _httpx() -> httpx.Client:
    return httpx.Client(timeout=TIMEOUT_S)


@cache
def _requests() -> requests.Session:
    return requests.Session()


def _body(protocol: str, *, stream: bool) -> bytes:
    return plain(PROTOCOLS[protocol].ask(PROMPT, stream))


_JSON = {"content-type": "application/json"}


def _by_httpx(protocol: str, *, stream: bool, show: Callable[[httpx.Response, Sight], None]) -> Reader:
    def run(url: str, sight: Sight) -> None:
        address = url + PROTOCOLS[protocol].target(stream=stream)
        with _httpx().stream("POST", address, content=_body(protocol, stream=stream), headers=_JSON) as response:
            show(response, sight)

    return Reader(f"httpx {show.__name__.strip('_')}", protocol, stream, run)


def _iter_lines(response: httpx.Response, sight: Sight) -> None:
    """Show lines as httpx splits them, which is as `str.splitlines` does."""
    for line in response.iter_lines():
        sight.add("line", line)


def _text_and_json(response: httpx.Response, sight: Sight) -> None:
    """Show the text in the charset of the answer, and the strings of the JSON in it."""
    response.read()
    sight.add("text", response.text)
    sight.add("reason phrase", response.reason_phrase)
    sight.add("strings of the JSON", list(_strings_of_json(response.text)))


def _strings_of_json(text: str) -> Iterator[str]:
    """Yield the text of every string in a JSON text, as most parsers read it."""
    stack = [json.loads(text, strict=False)]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        stack += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _headers(response: httpx.Response, sight: Sight) -> None:
    for name, value in response.headers.multi_items():
        sight.add(f"header {name}", value)


def _by_requests(protocol: str, *, stream: bool) -> Reader:
    def run(url: str, sight: Sight) -> None:
        address, body = url + PROTOCOLS[protocol].target(stream=stream), _body(protocol, stream=stream)
        with _requests().post(address, data=body, headers=_JSON, stream=True, timeout=TIMEOUT_S) as response:
            if "charset" not in response.headers.get("content-type", ""):
                response.encoding = "utf-8"  # without it, requests reads `text/event-stream` as Latin-1
            for line in response.iter_lines(decode_unicode=True):
                sight.add("line", line)

    return Reader("requests iter_lines", protocol, stream, run)


HAS_HTTPX_SSE = importlib.util.find_spec("httpx_sse") is not None


def _show_sse(sight: Sight, events: Iterable[Any]) -> None:
    joined = ""
    try:
        for event in events:
            joined += f"{event.data}\n"
            for name in ("event", "data", "id"):
                sight.add(f"{name} of an event", getattr(event, name))
            with contextlib.suppress(ValueError):
                sight.add("strings of an event's JSON", list(_strings_of_json(event.data)))
    finally:
        sight.add("data of all events", joined)


def _iter_sse(response: httpx.Response, sight: Sight) -> None:
    """Show events as the installed httpx-sse reads them."""
    _show_sse(sight, importlib.import_module("httpx_sse").EventSource(response).iter_sse())


def _iter_sse_of_lines(response: httpx.Response, sight: Sight) -> None:
    """Show events as httpx-sse 0.4.0 reads them: its decoder is fed with the lines of `Response.iter_lines`."""
    decoder = importlib.import_module("httpx_sse._decoders").SSEDecoder()
    found = (decoder.decode(line.rstrip("\n")) for line in response.iter_lines())
    _show_sse(sight, (event for event in found if event is not None))


def line_readers(protocol: str) -> list[Reader]:
    """Return the readers of a stream's lines; of its events, if the protocol has events."""
    readers = [_by_httpx(protocol, stream=True, show=_iter_lines), _by_requests(protocol, stream=True)]
    if HAS_HTTPX_SSE and PROTOCOLS[protocol].content_type == SSE:
        readers += [_by_httpx(protocol, stream=True, show=show) for show in (_iter_sse, _iter_sse_of_lines)]
    return readers


def plain_readers(protocol: str, *, stream: bool = False) -> list[Reader]:
    """Return the readers of an answer as a text, with httpx and with requests."""
    return [_by_httpx(protocol, stream=stream, show=_text_and_json), _by_requests(protocol, stream=stream)]


def header_reader(protocol: str) -> Reader:
    """Return the reader of an answer's headers."""
    return _by_httpx(protocol, stream=False, show=_headers)
