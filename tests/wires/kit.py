"""Shared by the tests of the wires: recorded streams, ways to cut them, and a server with a scripted answer."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

from guardproxy.chunks import Chunk, ChunkRun
from guardproxy.holdback import first_frames
from guardproxy.ports import ReplyStream, Request, Wire
from guardproxy.wires import anthropic_messages, gemini, ollama, openai_chat, openai_completions, openai_responses

TRANSCRIPTS = Path(__file__).parent / "transcripts"
MESSAGES = [{"role": "user", "content": "Hello there."}]


@dataclass(frozen=True)
class Case:
    """A recorded stream, the whole reply with the same content, and the request for both."""

    name: str
    stream: str
    whole: str
    wire: Wire
    path: str
    body: dict[str, Any]
    content_type: str = "text/event-stream"

    @property
    def raw(self) -> bytes:
        """The stream's bytes."""
        return (TRANSCRIPTS / self.stream).read_bytes()

    @property
    def reply(self) -> bytes:
        """The whole reply's bytes."""
        return (TRANSCRIPTS / self.whole).read_bytes()

    def request(self, **more: Any) -> Request:
        """Return the parsed request."""
        return self.wire.parse_request(self.path, json.dumps({**self.body, **more}).encode())

    def open(self, **more: Any) -> ReplyStream:
        """Return a reader for the stream."""
        return self.wire.open_stream(self.request(**more), self.content_type)


CHAT = {"model": "m", "messages": MESSAGES, "stream": True}
GEMINI = {"contents": [{"role": "user", "parts": [{"text": "Hello there."}]}]}
STREAM_OF = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"

CASES = [
    Case("chat", "openai_chat.sse", "openai_chat.json", openai_chat.wire, "/v1/chat/completions", CHAT),
    Case(
        "chat-tools", "openai_chat_tools.sse", "openai_chat_tools.json", openai_chat.wire, "/v1/chat/completions", CHAT
    ),
    Case(
        "chat-reasoning",
        "openai_chat_reasoning.sse",
        "openai_chat_reasoning.json",
        openai_chat.wire,
        "/v1/chat/completions",
        CHAT,
    ),
    Case(
        "completions",
        "openai_completions.sse",
        "openai_completions.json",
        openai_completions.wire,
        "/v1/completions",
        {"model": "m", "prompt": "Hello there.", "stream": True},
    ),
    Case(
        "responses",
        "openai_responses.sse",
        "openai_responses.json",
        openai_responses.wire,
        "/v1/responses",
        {"model": "gpt", "instructions": "Answer briefly.", "input": "Hello there.", "stream": True},
    ),
    Case(
        "messages",
        "anthropic_messages.sse",
        "anthropic_messages.json",
        anthropic_messages.wire,
        "/v1/messages",
        {**CHAT, "max_tokens": 64},
    ),
    Case(
        "ollama-chat",
        "ollama_chat.ndjson",
        "ollama_chat.json",
        ollama.wire,
        "/api/chat",
        CHAT,
        "application/x-ndjson",
    ),
    Case(
        "ollama-tools",
        "ollama_chat_tools.ndjson",
        "ollama_chat_tools.json",
        ollama.wire,
        "/api/chat",
        CHAT,
        "application/x-ndjson",
    ),
    Case(
        "ollama-generate",
        "ollama_generate.ndjson",
        "ollama_generate.json",
        ollama.wire,
        "/api/generate",
        {"model": "m", "prompt": "Hello there."},
        "application/x-ndjson",
    ),
    Case("gemini", "gemini.sse", "gemini.json", gemini.wire, f"{STREAM_OF}?alt=sse", GEMINI),
    Case("gemini-array", "gemini_array.json", "gemini.json", gemini.wire, STREAM_OF, GEMINI, "application/json"),
]
BY_NAME = {case.name: case for case in CASES}


def pieces(raw: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut `raw` at these places."""
    places = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    return [raw[start:end] for start, end in pairwise(places)]


def by_frame(chunks: Sequence[Chunk | ChunkRun]) -> list[Chunk]:
    """Return a chunk for each frame."""
    found: list[Chunk] = []
    for chunk in chunks:
        if isinstance(chunk, ChunkRun):
            found += [first_frames(chunk, stop) for stop in range(1, len(chunk.upto) + 1)]
        else:
            found.append(chunk)
    return found


def fed(stream: ReplyStream, parts: Sequence[bytes]) -> list[Chunk]:
    """Return all chunks of a stream of these parts, with its last ones."""
    return [*(chunk for part in parts for chunk in by_frame(stream.feed(part))), *stream.finish()]


def shape(chunks: Sequence[Chunk]) -> list[tuple[bytes, Any]]:
    """Return the fields of chunks that must not depend on how the bytes were cut."""
    return [(chunk.raw, chunk.marks) for chunk in chunks]


def sse(*bodies: Any) -> bytes:
    """Return a stream of events without names."""
    return b"".join(b"data: " + json.dumps(body).encode() + b"\n\n" for body in bodies)


def chat_chunk(index: int, delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    """Return a chunk of a streamed chat completion."""
    choice = {"index": index, "delta": delta, "finish_reason": finish, **more}
    return {"id": "c", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": [choice]}


@contextmanager
def answering(status: int, content_type: str, body: bytes) -> Iterator[str]:
    """Run a loopback server with this answer to every request; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
