"""A guarded proxy that runs for a whole test module, with a scripted upstream behind it and a watch before it."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import Send

from guardproxy.policy import BlockPolicy, Policy, PolicySet, Route, Rule, SideRules, StreamPolicy
from guardproxy.types import Record
from guardproxy.web.upstream import Upstream
from tests.conformance.clients import Client
from tests.conformance.reading import Reach, Read
from tests.conformance.speech import Protocol, plain
from tests.conformance.watch import Watch, watching
from tests.kit import ListSink, Scripted, ScriptedUpstream, serve
from tests.web.kit import guarded, policy

_REDACT = SideRules({"weapons": (Rule("block", 0.5),), "privacy": (Rule("rewrite", 0.5, "redact"),)})

# The model of a request chooses the policy; `m` and every other name choose the policy of `tests.web.kit`.
POLICIES: dict[str, Policy] = {
    "default": policy(stream=StreamPolicy(every=10)),
    "redact": policy(user=_REDACT, assistant=_REDACT),
    "error": policy(block=BlockPolicy(how="error"), stream=StreamPolicy(every=10)),
    "plain": policy(block=BlockPolicy(finish="stop"), stream=StreamPolicy(every=10)),
}
REFUSAL = BlockPolicy().message
CLOSING = f"\n\n{BlockPolicy().closing}"
REPLACEMENT = policy().rewrite.replacement
MARKER = policy().rewrite.marker


class GatedUpstream(ScriptedUpstream):
    """A scripted upstream. Its script may contain functions, which are called between two pieces."""

    async def _play(self, answer: Scripted, send: Send) -> None:
        head = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": head})
        for item in answer.body:
            if callable(item):
                await asyncio.to_thread(item)
            elif item is None:
                return
            else:
                await send({"type": "http.response.body", "body": item, "more_body": True})
        await send({"type": "http.response.body"})


@dataclass
class Stand:
    """The proxy under test, and everything that crossed it since the last `play`."""

    upstream: GatedUpstream
    watch: Watch
    sink: ListSink

    def play(self, *script: Scripted) -> None:
        """Set the upstream's answer, and forget what has crossed."""
        self.upstream.script[:] = script
        self.upstream.seen.clear()
        self.watch.crossed.clear()
        self.sink.records.clear()

    def answer_with(self, client: Client, protocol: Protocol, pieces: Sequence[str | Callable[[], None]]) -> None:
        """Let the upstream answer with these pieces, streamed if the client is; functions run between them."""
        texts = [piece for piece in pieces if isinstance(piece, str)]
        if not client.streamed:
            self.play(Scripted([plain(protocol.whole("".join(texts)))]))
            return
        frames = protocol.streamed(texts)
        body: list[Any] = []
        for piece in pieces:
            if isinstance(piece, str):
                place = next(n for n, frame in enumerate(frames) if piece.encode() in frame)
                body += frames[: place + 1]
                del frames[: place + 1]
            else:
                body.append(piece)
        self.play(Scripted([*body, *frames], headers={"content-type": protocol.content_type}))

    def ask(self, client: Client, prompt: str, model: str = "m") -> Read:
        """Ask through the watch. The client must send a single request and get an answer in time."""
        read = client.ask(Reach(self.watch.url, model), prompt)
        assert len(self.watch.crossed) == 1, "the client retried"
        assert not self.watch.crossed[0].broken
        return read

    @property
    def received(self) -> bytes:
        """The bytes that the client received."""
        return bytes(self.watch.crossed[0].answer)

    @property
    def header(self) -> dict[str, str]:
        """The headers that the client received."""
        return self.watch.crossed[0].headers

    def asked(self) -> list[bytes]:
        """The bodies that the upstream received."""
        return [seen.body for seen in self.upstream.seen]

    def records(self, number: int) -> list[Record]:
        """Wait for this number of records of the request and return them: they are written after the answer."""
        deadline = time.monotonic() + 60
        request = self.header["x-guardproxy-request-id"]
        while True:
            found = [record for record in self.sink.records if record.origin.request_id == request]
            if len(found) >= number or time.monotonic() > deadline:
                return found
            time.sleep(0.01)


@contextmanager
def standing(**changes: Any) -> Iterator[Stand]:
    """Run the proxy behind its watch; `changes` as in `tests.web.kit`."""
    upstream, sink = GatedUpstream([Scripted()]), ListSink()
    routes = tuple(Route(name, name, model=name) for name in POLICIES if name != "default")
    live = PolicySet(POLICIES, routes)
    with (
        serve(upstream) as below,
        serve(guarded(Upstream(below), policies=live, sinks={"list": sink}, **changes)) as url,
        watching(url) as watch,
    ):
        yield Stand(upstream, watch, sink)
