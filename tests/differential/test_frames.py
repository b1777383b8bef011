"""What readers of lines and events show of the frames of a stream around their data, against what the guard read."""

import json
import random
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from tests.conformance.speech import PROTOCOLS, plain
from tests.differential.comparing import missed
from tests.differential.kit import Shown, Stand, phrase, unjudged
from tests.differential.reading import HAS_HTTPX_SSE, line_readers
from tests.differential.replies import VOICES, frames, said, streamed
from tests.kit import Scripted, serve

STREAMED = [name for name, form in PROTOCOLS.items() if form.content_type == "text/event-stream"]
_SCRIPT = Path(__file__).parent / "event_source.mjs"
# What `str.splitlines` takes for the end of a line, and the format of server-sent events does not.
SEPARATORS = ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e")
COMMENTS = {"comment": ": {text}\n", "comment without space": ":{text}\n"}
IDS = {"id": "id: {text}\n", "id without space": "id:{text}\n", "id behind an id": "id: 7\nid: {text}\n"}
RETRIES = {"retry": "retry: {text}\n", "retry behind a number": "retry: 100 {text}\n"}
NAMES = {"event": "event: {text}\n", "event without space": "event:{text}\n"}
ODD = {
    "line without a colon": "{text}\n",
    "field of another name": "note: {text}\n",
    "data that is no JSON": "data: {text}\n",
    "data behind a CR": ": x\rdata: {text}\n",
    "data in another case": "Data: {text}\n",
    "data behind a space": " data: {text}\n",
    "data behind a byte order mark": "\ufeffdata: {text}\n",
}
SPLIT = {
    f"{separator!a} in {place}": f"{start}{separator}data: {{text}}{separator}\n"
    for separator in SEPARATORS
    for place, start in (("a comment", ": x"), ("an id", "id: 7"), ("an event", "event: message"))
}


@pytest.mark.skipif(not HAS_HTTPX_SSE, reason="httpx-sse is not installed: the readers of its events are left out")
def test_the_readers_of_events() -> None:
    names = [reader.name for reader in line_readers("chat")]
    assert names == ["httpx iter_lines", "requests iter_lines", "httpx iter_sse", "httpx iter_sse_of_lines"]


def dressed(rng: random.Random, protocol: str, line: str, *, alone: bool) -> Scripted:
    """Return a stream with a line before a frame, as a part of the frame or as a frame of its own."""
    pieces = frames(protocol, VOICES[protocol].events(rng, [said(rng, "text")]))
    place = rng.randrange(len(pieces))
    pieces[place] = line.encode() + (b"\n" if alone else b"") + pieces[place]
    if rng.random() < 0.3:
        pieces = [piece.replace(b"\r\n", b"\n").replace(b"\n", rng.choice((b"\r\n", b"\r"))) for piece in pieces]
    return streamed(rng, protocol, pieces)


def check(stand: Stand, protocol: str, lines: dict[str, str]) -> None:
    """Fail with the names of the lines that a reader shows and the guard has not read."""
    rng, found = random.Random(protocol), []
    for name, line in lines.items():
        for alone in (False, True):
            answer = dressed(rng, protocol, line.format(text=phrase(rng)), alone=alone)
            found += [f"{name}: {text}" for text in missed(stand, answer, line_readers(protocol))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("protocol", STREAMED)
def test_comments(stand: Stand, protocol: str) -> None:
    check(stand, protocol, COMMENTS)


@pytest.mark.parametrize("protocol", STREAMED)
def test_ids(stand: Stand, protocol: str) -> None:
    check(stand, protocol, IDS)


@pytest.mark.parametrize("protocol", STREAMED)
def test_times_to_reconnect(stand: Stand, protocol: str) -> None:
    check(stand, protocol, RETRIES)


@pytest.mark.parametrize("protocol", STREAMED)
def test_names_of_events(stand: Stand, protocol: str) -> None:
    check(stand, protocol, NAMES)


@pytest.mark.parametrize("protocol", STREAMED)
def test_lines_that_are_no_field(stand: Stand, protocol: str) -> None:
    check(stand, protocol, ODD)


@pytest.mark.parametrize("protocol", STREAMED)
def test_lines_that_only_some_readers_end(stand: Stand, protocol: str) -> None:
    """Between two of these separators, readers that split as `str.splitlines` does find a line of their own."""
    check(stand, protocol, SPLIT)


@pytest.mark.parametrize("protocol", STREAMED)
def test_data_behind_the_end(stand: Stand, protocol: str) -> None:
    rng = random.Random(protocol)
    for line in ("{text}\n", "data: {text}\n\n", 'data: "{text}"\n\n', 'data: {{"error": "{text}"}}\n\n', "{text}"):
        pieces = frames(protocol, VOICES[protocol].events(rng, [said(rng, "text")]))
        answer = streamed(rng, protocol, [*pieces, line.format(text=phrase(rng)).encode()])
        found = missed(stand, answer, line_readers(protocol))
        assert not found, (line, found)


# --- the EventSource of Node -----------------------------------------------------------------------------------------


@cache
def _node() -> str:
    """Return the path of a Node that has an EventSource; the test is skipped where there is none."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    has = "process.exit(typeof EventSource === 'function' ? 0 : 1)"
    if subprocess.run([node, "--experimental-eventsource", "-e", has], capture_output=True, check=False).returncode:
        pytest.skip("this version of node has no EventSource")
    return node


def shown_by_event_source(streams: Sequence[bytes]) -> list[list[Shown]]:
    """Return what an EventSource shows of each of these streams: the names, the data and the ids of its events."""

    async def replay(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            head = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": head})
            await send({"type": "http.response.body", "body": streams[int(scope["path"][1:])]})

    command = [_node(), "--experimental-eventsource", str(_SCRIPT)]
    with serve(replay) as url:
        done = subprocess.run([*command, url, str(len(streams))], capture_output=True, check=True, timeout=150)
    events: list[list[dict[str, Any]]] = json.loads(done.stdout)
    return [[Shown(f"{key} of an event", event[key]) for event in stream for key in event] for stream in events]


def test_what_an_event_source_shows(stand: Stand) -> None:
    """The bytes that the proxy has sent, replayed to the EventSource, which can only ask with GET."""
    rng = random.Random(5)
    lines = {**COMMENTS, **IDS, **RETRIES, **NAMES, **ODD, **dict(list(SPLIT.items())[:6]), "nothing": ""}
    names, streams, judged = [], [], []
    for protocol in STREAMED:
        for name, line in lines.items():
            stand.play(dressed(rng, protocol, line.format(text=phrase(rng)), alone=False))
            body = plain(PROTOCOLS[protocol].ask("hello", True))
            address = stand.url + PROTOCOLS[protocol].target(stream=True)
            answer = httpx.post(address, content=body, headers={"content-type": "application/json"}, timeout=60)
            names.append(f"{protocol}, {name}")
            streams.append(answer.content if answer.status_code == 200 else b"")
            judged.append(list(stand.guard.judged))
    shown = shown_by_event_source(streams)
    assert sum(map(len, shown)) > len(streams)
    found = [f"{n}: {text}" for n, s, j in zip(names, shown, judged, strict=True) for text in unjudged(s, j)]
    assert not found, "\n".join(found)
