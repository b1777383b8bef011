"""What asking a guard in another process costs: the format of a check and its verdict, and the way that they travel.

    python -m bench.check_format [--checks N]

CPU time, in microseconds. The format: a check and a verdict written and read again, in JSON by the standard library
(what `guardproxy.checkapi` does, with all its tests of the values), and the same values by orjson and msgpack, if they
are installed. The way: a check of `/v1/check` with a guard that answers at once, both ends in one process, over
HTTP/1.1 connections that stay open, on a port and on a Unix socket; and the same bytes behind their length, without
HTTP.
"""

import argparse
import asyncio
import contextlib
import importlib
import json
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Route

from guardproxy.checkapi import (
    CHECK,
    Account,
    CheckCall,
    call_fields,
    call_of,
    read_verdict,
    verdict_fields,
    write_call,
)
from guardproxy.checkapi.fields import dumps
from guardproxy.observe import Metrics, Observers, configure_logging
from guardproxy.pipeline import GrowingReplies, Judging
from guardproxy.policy import Policy, PolicySet, SideRules
from guardproxy.settings import AuditSettings, Limits
from guardproxy.types import Category, Check, Conversation, Finding, Message, Part, Taxonomy, Verdict
from guardproxy.web.access import Access
from guardproxy.web.apis import ApiParts
from guardproxy.web.checks import CheckApi
from guardproxy.web.identities import Identities
from guardproxy.web.proxy import LivePolicies
from guardproxy.web.sample import ReviewSample
from guardproxy.wires.shared.body import read_object

NAMES = (
    "violence_hate",
    "sexual_content",
    "criminal_planning",
    "guns_illegal_weapons",
    "suicide_self_harm",
    "jailbreak",
)
VERDICT = Verdict(
    0.1234567890123, tuple(Finding(name, 1 / (3 + len(name))) for name in NAMES), "embedded", "classifier"
)
TEXTS = {"100 characters": "Tell me more. " * 7, "10 000 characters": "Tell me more, ça va? " * 476}


class Instant:
    """A guard that answers at once."""

    name = "instant"
    taxonomy = Taxonomy("classifier", tuple(Category(name, name) for name in NAMES))

    async def judge(self, check: Check) -> Verdict:
        """The verdict."""
        return VERDICT

    def forget(self, stream: str) -> None:
        """Nothing is kept."""

    async def start(self) -> None:
        """Nothing is loaded."""

    async def close(self) -> None:
        """Nothing is open."""


def app() -> Starlette:
    """The API alone."""
    metrics = Metrics(CollectorRegistry())
    guard, policy = Instant(), Policy("default", "v", SideRules({}), SideRules({}))
    judging = Judging(guard, Observers({}, metrics=metrics, text="none"), metrics, {})
    sample, policies = ReviewSample(0.0, Random(1)), LivePolicies(PolicySet({"default": policy}))
    identities = Identities(AuditSettings())
    parts = ApiParts(judging, policies, Limits(), lambda: "", identities, sample, Access(), metrics)
    return Starlette(
        routes=[Route(CHECK, CheckApi(parts, GrowingReplies(), lambda: Account("instant", guard.taxonomy), plain=True))]
    )


def a_call(text: str) -> CheckCall:
    """The call of a proxy for a text, with a short context."""
    earlier = Message("user", (Part("messages[0].content", "Hello, who are you?"),))
    return CheckCall(Check(Conversation((earlier, Message("user", (Part("messages[1].content", text),)))), "user"))


def _us(work: Callable[[], object], times: int) -> float:
    work()
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times * 1e6


def formats(text: str, times: int) -> list[tuple[str, float, int]]:
    """For each format its name, microseconds for a check and a verdict, and their bytes."""
    call = a_call(text)
    values = (call_fields(call), verdict_fields(VERDICT))

    def ours() -> None:
        call_of(read_object(write_call(call), halves=True))
        read_verdict(dumps(verdict_fields(VERDICT)))

    rows = [("checkapi (JSON), values tested", _us(ours, times), sum(len(dumps(value)) for value in values))]
    known: dict[str, tuple[Callable[[Any], bytes], Callable[[bytes], Any]]] = {"json": (dumps, json.loads)}
    for name, write, read in (("orjson", "dumps", "loads"), ("msgpack", "packb", "unpackb")):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        known[name] = (getattr(module, write), getattr(module, read))
    for name, (write_bytes, read_bytes) in known.items():

        def both(write_bytes: Any = write_bytes, read_bytes: Any = read_bytes) -> None:
            for value in values:
                read_bytes(write_bytes(value))

        rows.append((f"{name}, bytes alone", _us(both, times), sum(len(write_bytes(value)) for value in values)))
    return rows


Ask = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]


def _http(body: bytes) -> Ask:
    head = (
        f"POST {CHECK} HTTP/1.1\r\nhost: guard\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the guard answered {answer!r}")
        return await reader.readexactly(int(answer.split(b"content-length: ")[1].split(b"\r\n")[0]))

    return ask


def _framed(body: bytes) -> Ask:
    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(len(body).to_bytes(4, "big") + body)
        return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))

    return ask


async def _frames(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer framed checks, with the same reading and writing of the values."""
    judge = Instant().judge
    try:
        while True:
            body = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
            answer = dumps(verdict_fields(await judge(call_of(read_object(body, halves=True)).check)))
            writer.write(len(answer).to_bytes(4, "big") + answer)
    except (asyncio.IncompleteReadError, asyncio.CancelledError):
        writer.close()


async def _cost(ask: Ask, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], times: int) -> float:
    for _ in range(20):
        await ask(*streams)
    began = time.process_time()
    for _ in range(times):
        read_verdict(await ask(*streams))
    used = time.process_time() - began
    streams[1].close()
    return used / times * 1e6


@contextlib.asynccontextmanager
async def _served(**where: Any) -> AsyncIterator[uvicorn.Server]:
    server = uvicorn.Server(uvicorn.Config(app(), log_config=None, access_log=False, ws="none", **where))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.05)
    yield server
    server.should_exit = True
    await serving


async def ways(text: str, times: int) -> list[tuple[str, float]]:
    """For each way its name and microseconds of CPU time for a check, of both ends together."""
    body = write_call(a_call(text))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        uds = str(Path(folder) / "guard")
        async with _served(uds=uds):
            rows.append(("HTTP/1.1 over a Unix socket", await _cost(_http(body), await _unix(uds), times)))
        async with _served(port=0) as server:
            port = server.servers[0].sockets[0].getsockname()[1]
            streams = await asyncio.open_connection("127.0.0.1", port)
            rows.append(("HTTP/1.1 over TCP", await _cost(_http(body), streams, times)))
        uds = str(Path(folder) / "frames")
        framed = await asyncio.start_unix_server(_frames, uds)
        rows.append(("behind its length over a Unix socket", await _cost(_framed(body), await _unix(uds), times)))
        framed.close()
    return rows


async def _unix(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(path)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checks", type=int, default=2000, metavar="N", help="checks of each row")
    args = parser.parse_args()
    configure_logging("warning", json=True, text="none")
    print("| text | format | us, check and verdict | bytes |\n|---|---|---|---|")
    for name, text in TEXTS.items():
        for row, used, size in formats(text, args.checks):
            print(f"| {name} | {row} | {used:.0f} | {size} |")
    print("\n| text | way | us, both ends |\n|---|---|---|")
    for name, text in TEXTS.items():
        for row, used in asyncio.run(ways(text, args.checks)):
            print(f"| {name} | {row} | {used:.0f} |")


if __name__ == "__main__":
    main()
