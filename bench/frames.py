"""Count what it costs to read a frame of a stream: user instructions, in a simulated CPU (valgrind's callgrind).

    python -m bench.frames [NAME ...]

Each protocol's frames, 600 with a word each, come in pieces of 4 KB, as `pipeline.slices` cuts them. The figure is what
the wire's reader needs, without connections, checks and release, after it has read the stream once. `escapes` are chat
completions of which every third text has a line break and an accent.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from guardproxy import wires
from guardproxy.registry import load

FRAMES = 600
ROUNDS = 3
WORDS = ("The ", "quick ", "brown ", "fox ", "jumps ", "over ", "the ", "lazy ", "dog ", "and ", "naps. ")
_SLICE = 4096
_GEMINI = "/v1beta/models/m:streamGenerateContent"
_CONTENTS = [{"role": "user", "parts": [{"text": "Hello."}]}]


@dataclass(frozen=True)
class Stream:
    """How a protocol writes a stream, and its request: `key` is the field with the turn.

    `end` stands behind each frame; of an array, in front of each item but the first.
    """

    wire: str
    path: str
    content_type: str = "text/event-stream"
    end: str = "\n\n"
    key: str = "messages"
    turn: Any = field(default_factory=lambda: [{"role": "user", "content": "Hello."}])


STREAMS = {
    "chat": Stream("openai_chat", "/v1/chat/completions"),
    "escapes": Stream("openai_chat", "/v1/chat/completions"),
    "responses": Stream("openai_responses", "/v1/responses", key="input", turn="Hello."),
    "anthropic": Stream("anthropic_messages", "/v1/messages"),
    "gemini": Stream("gemini", _GEMINI, end="\r\n\r\n", key="contents", turn=_CONTENTS),
    "gemini array": Stream("gemini", _GEMINI, "application/json", ",\r\n", "contents", _CONTENTS),
    "ollama chat": Stream("ollama", "/api/chat", "application/x-ndjson", "\n"),
    "ollama generate": Stream("ollama", "/api/generate", "application/x-ndjson", "\n", "prompt", "Hello."),
}


def _starts(name: str) -> list[dict[str, Any]]:
    """The frames in front of the first text."""
    item = {"type": "message", "id": "i", "role": "assistant", "content": []}
    if name == "responses":
        return [
            {"type": "response.created", "response": {"id": "r", "model": "m", "output": []}},
            {"type": "response.output_item.added", "output_index": 0, "item": item},
        ]
    if name == "anthropic":
        block = {"type": "text", "text": ""}
        return [
            {"type": "message_start", "message": {**item, "type": "message", "model": "m"}},
            {"type": "content_block_start", "index": 0, "content_block": block},
        ]
    return []


def _body(name: str, number: int, text: str) -> dict[str, Any]:
    """A frame with a text."""
    if name in ("chat", "escapes"):
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    if name == "anthropic":
        return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    if name == "responses":
        place = {"item_id": "i", "output_index": 0, "content_index": 0}
        more = {"logprobs": [], "sequence_number": number, "obfuscation": "x7Kq2bYw"[: 2 + number % 7]}
        return {"type": "response.output_text.delta", **place, "delta": text, **more}
    if name.startswith("gemini"):
        counts = {"promptTokenCount": 5, "candidatesTokenCount": number + 1, "totalTokenCount": number + 6}
        candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
        head = {"modelVersion": "gemini-2.5-flash", "responseId": "mAitaLmkHPPlz7IPvtfUqQ4"}
        return {"candidates": [candidate], "usageMetadata": counts, **head}
    said = {"message": {"role": "assistant", "content": text}} if name == "ollama chat" else {"response": text}
    return {"model": "llama3.2", "created_at": f"2026-01-01T00:00:00.{number:06}Z", **said, "done": False}


@cache
def _stream(name: str) -> bytes:
    return b"".join(_frames(name))


def _frames(name: str) -> Iterator[bytes]:
    stream = STREAMS[name]
    texts = [
        text.replace(" ", " é\n") if name == "escapes" and number % 3 == 0 else text
        for number, text in enumerate(islice(cycle(WORDS), FRAMES))
    ]
    for place, body in enumerate([*_starts(name), *(_body(name, number, text) for number, text in enumerate(texts))]):
        event = f"event: {body['type']}\n" if "type" in body else ""
        if name == "gemini array":
            yield f"{stream.end if place else '['}{json.dumps(body, indent=2)}".encode()
        else:
            before = "" if stream.wire == "ollama" else f"{event}data: "
            yield f"{before}{json.dumps(body)}{stream.end}".encode()


def read(name: str, rounds: int) -> None:
    """Read the stream so many times."""
    stream = STREAMS[name]
    wire = load(stream.wire, wires.REGISTRY, "wire")
    request = {"model": "m", "stream": True, "max_tokens": 9, stream.key: stream.turn}
    raw = _stream(name)
    for _ in range(rounds):
        reader = wire.open_stream(wire.parse_request(stream.path, json.dumps(request).encode()), stream.content_type)
        for start in range(0, len(raw), _SLICE):
            reader.feed(raw[start : start + _SLICE])
        if sum(part.text.count(" ") for part in reader.message(0).parts) < FRAMES:
            raise RuntimeError(f"not all frames of {name} were read")


def serve() -> None:
    """Read a stream once for every name that comes by standard input, and say so: the process that is counted."""
    for line in sys.stdin:
        read(line.strip(), ROUNDS)
        print("done", flush=True)


class Counter:
    """A process in a simulated CPU that reads streams."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out"]
        self._process = subprocess.Popen(
            [*tool, sys.executable, "-m", "bench.frames", "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            text=True,
        )

    def count(self, name: str) -> int:
        """The instructions of ROUNDS readings of a stream."""
        self._read(name)
        self._control("-i", "on")
        self._control("-z")
        self._read(name)
        self._control("-d", name)
        self._control("-i", "off")
        dump = max(self._folder.glob("out.*"), key=lambda path: int(path.suffix[1:]))
        found = re.search(r"^(?:totals|summary): (\d+)", dump.read_text(), re.MULTILINE)
        if found is None:
            raise RuntimeError(f"valgrind has counted nothing for {name}")
        return int(found[1])

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _read(self, name: str) -> None:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            raise RuntimeError(f"the stream of {name} could not be read")

    def _control(self, *arguments: str) -> None:
        subprocess.run(["callgrind_control", *arguments, str(self._process.pid)], check=True, capture_output=True)


def main() -> None:
    """Parse the command line, count and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(STREAMS)}; all if none is given")
    parser.add_argument("--serve", action="store_true", help="only read streams: the process that is counted")
    args = parser.parse_args()
    if args.serve:
        serve()
        return
    print("| frames | M user instructions to read one |\n|---|--:|")
    with tempfile.TemporaryDirectory() as folder:
        counter = Counter(Path(folder))
        for name in args.names or STREAMS:
            print(f"| {name} | {counter.count(name) / ROUNDS / FRAMES / 1e6:.3f} |", flush=True)
        counter.close()


if __name__ == "__main__":
    main()
