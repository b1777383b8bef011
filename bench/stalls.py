"""Measure how long one request stops the proxy's event loop, over bodies that cost much: their values, texts, frames.

    python -m bench.stalls [--only WORD] [--json FILE]

The proxy is a process of its own with a real server, a real SQLite store and a guard that answers at once. A task in it
(the heartbeat) sleeps for 5 ms again and again: a stall is the time by which it comes too late. `stall` is the longest
of a request, and `cpu` the CPU time that the process used meanwhile: other load on the machine lengthens the first but
not the second. `answer` is the time until the whole answer has come, `rss` the growth of the process's memory.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

BEAT_S = 0.005
CHAT = "/v1/chat/completions"


# --- the proxy -------------------------------------------------------------------------------------------------------


class Heartbeat:
    """Notes the longest time by which a task that sleeps BEAT_S comes too late."""

    def __init__(self) -> None:
        self.stall_s = self.cpu_s = 0.0

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            began, cpu = time.perf_counter(), time.process_time()
            await asyncio.sleep(BEAT_S)
            late, used = time.perf_counter() - began - BEAT_S, time.process_time() - cpu
            if min(late, used) > min(self.stall_s, self.cpu_s):
                self.stall_s, self.cpu_s = late, used

    def take(self) -> dict[str, float]:
        """Return the longest stall since the last call and its CPU time, in seconds, and the memory in bytes."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        taken = {"stall_s": self.stall_s, "cpu_s": self.cpu_s, "rss": float(pages * os.sysconf("SC_PAGE_SIZE"))}
        self.stall_s = self.cpu_s = 0.0
        return taken


def watched(app: ASGIApp, heart: Heartbeat) -> ASGIApp:
    """The application with a heartbeat, which `GET /stall` reads and resets."""
    tasks: list[asyncio.Task[None]] = []

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if not tasks:
            tasks.append(asyncio.create_task(heart.run()))
        if scope["type"] == "http" and scope["path"] == "/stall":
            body = json.dumps(heart.take()).encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})
            return
        await app(scope, receive, send)

    return serve


def serve_proxy(port: int, target: str, folder: str) -> None:
    """Serve the proxy until stopped."""
    from bench.servers import guarded  # noqa: PLC0415 - only the server's process needs it

    wires = ("openai_chat", "openai_completions", "openai_responses", "anthropic_messages", "gemini", "ollama")
    app = watched(guarded(target, f"sqlite:///{folder}/audit.db", wires), Heartbeat())
    uvicorn.run(app, port=port, log_config=None, access_log=False, server_header=False, date_header=False)


def serve_upstream(port: int) -> None:
    """Serve an upstream that answers with the reply that the header `x-reply` names."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        name = dict(scope["headers"]).get(b"x-reply", b"short").decode()
        content_type, pieces = REPLIES[name]
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", content_type.encode())]}
        await send(start)
        for piece in pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    uvicorn.run(app, port=port, log_config=None, access_log=False, lifespan="off")


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[str]:
    """Run this file with `--serve` and arguments; yield its URL."""
    port = free_port()
    command = [sys.executable, "-m", "bench.stalls", "--port", str(port), *arguments]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if running.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{arguments} did not start")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait(60)


# --- the bodies ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Body:
    """A request: its path, its body, and the reply that the upstream gives."""

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
    yield Body("one object of 200,000 keys", with_field(b"{%b}" % b",".join(b'"k%d":1' % n for n in range(200_000))))
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
    for name in REPLIES:
        if name not in ("short", "none"):
            yield Body(name, user("hello", stream=REPLIES[name][0] == SSE), reply=name)


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


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """The data in pieces of `size` bytes."""
    return (data[start : start + size] for start in range(0, len(data), size))


def two_fields(count: int) -> bytes:
    """A stream in which text and reasoning alternate."""
    frames = (frame(0, {("content", "reasoning_content")[n % 2]: "word "}) for n in range(count))
    return b"".join([*frames, frame(0, {}, "stop"), DONE])


REPLIES: dict[str, tuple[str, Callable[[], Iterator[bytes]]]] = {
    "short": (JSON, lambda: iter([completion("hello")])),
    "none": (JSON, lambda: iter([b"{}"])),
    "reply of 1 MB": (JSON, lambda: iter([completion((WORDS * 20_000)[:M])])),
    "reply of 10 MB": (JSON, lambda: iter([completion(WORDS * 150_000)])),
    "reply of 1,000 choices": (JSON, lambda: iter([completion(*(f"{n} {WORDS}" for n in range(1000)))])),
    "reply with 2,000 log probabilities": (JSON, lambda: iter([completion("a " * 2000, logprobs=logprobs(2000))])),
    "reply of 20 MB of []": (JSON, lambda: iter([b"[" + b"[]," * 6_900_000 + b"[]]"])),
    "stream of 1,000 frames": (SSE, lambda: iter([stream([WORDS[:20]] * 1_000)])),
    "stream of 20,000 frames of a word": (SSE, lambda: cut(stream(["word "] * 20_000), 65536)),
    "stream of 1 MB in one frame": (SSE, lambda: iter([stream([(WORDS * 20_000)[:M]])])),
    "stream of 5,000 frames, one write": (SSE, lambda: iter([stream(["word "] * 5_000)])),
    "stream of 2 alternating choices": (SSE, lambda: cut(stream(["word "] * 4_000, 2), 65536)),
    "stream of 100 choices": (SSE, lambda: cut(stream(["word "] * 5_000, 100), 65536)),
    "stream of 1,000 choices": (SSE, lambda: cut(stream(["word "] * 3_000, 1000), 65536)),
    "stream of text and reasoning": (SSE, lambda: cut(two_fields(4_000), 65536)),
    "stream in pieces of a byte": (SSE, lambda: cut(stream(["word "] * 300), 1)),
    "stream of 200,000 comments": (SSE, lambda: cut(b": comment\n\n" * 200_000 + stream(["hi"]), 65536)),
    "stream of 200,000 empty events": (SSE, lambda: cut(b"\n" * 400_000 + stream(["hi"]), 65536)),
    "stream with a line of 20 MB": (SSE, lambda: cut(b"data: " + b"a" * 20_000_000 + b"\n\n", 65536)),
    "stream of one event of 1M lines": (SSE, lambda: cut(b"data: 1\n" * 1_000_000 + b"\n", 65536)),
}


# --- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """The figures of one request. Seconds, and bytes; `status` 0 if there was no answer in time."""

    name: str
    status: int
    answer_s: float
    stall_s: float
    cpu_s: float
    rss: float


async def measure(url: str, body: Body) -> Measured:
    """Send a request while the heartbeat beats. The beats after the answer count, too: the record is written then."""
    async with httpx.AsyncClient(timeout=180) as client:
        before = (await client.get(f"{url}/stall")).json()
        began, status = time.perf_counter(), 0
        with contextlib.suppress(httpx.HTTPError):
            status = (await client.post(url + body.path, content=body.body, headers=_headers(body))).status_code
        took = time.perf_counter() - began
        await asyncio.sleep(0.5)
        after = (await client.get(f"{url}/stall")).json()
    return Measured(body.name, status, took, after["stall_s"], after["cpu_s"], after["rss"] - before["rss"])


def _headers(body: Body) -> dict[str, str]:
    return {"content-type": "application/json", "x-reply": body.reply, "authorization": "Bearer sk-bench"}


async def run(url: str, bodies: Sequence[Body]) -> AsyncIterator[Measured]:
    """Measure each body, one after the other."""
    for body in bodies:
        yield await measure(url, body)


async def report(url: str, only: str) -> list[Measured]:
    """Measure the bodies whose name contains `only`, and print a line for each."""
    print("| body | status | answer s | stall ms | cpu ms | rss MB |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    found = []
    async for row in run(url, [body for body in requests() if only in body.name]):
        found.append(row)
        figures = f"{row.answer_s:.2f} | {row.stall_s * 1000:.0f} | {row.cpu_s * 1000:.0f} | {row.rss / 2**20:.0f}"
        print(f"| {row.name} | {row.status} | {figures} |", flush=True)
    return found


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only bodies whose name contains this")
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file as well")
    parser.add_argument("--serve", choices=("proxy", "upstream"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--target", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve == "upstream":
        serve_upstream(args.port)
    elif args.serve == "proxy":
        serve_proxy(args.port, args.target, args.folder)
    else:
        with (
            tempfile.TemporaryDirectory() as folder,
            process("--serve", "upstream") as below,
            process("--serve", "proxy", "--target", below, "--folder", folder) as url,
        ):
            rows = asyncio.run(report(url, args.only))
        if args.json:
            Path(args.json).write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
