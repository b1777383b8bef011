"""A guard that breaks: a service in a process of its own at a running proxy, and a model's thread in the proxy."""

import asyncio
import threading
from collections.abc import Sequence

import httpx
import pytest

from guardproxy.engine.runner import WorkItem, WorkResult
from guardproxy.guards.local import LocalGuard, LocalLimits
from guardproxy.ports import ClassLogits, Piece, Prompt, Reading
from guardproxy.types import Category, Check, Taxonomy, Verdict
from tests.faults.kit import ask, told, watched
from tests.faults.stand import Proxy, Started, guard_process
from tests.faults.table import GUARD, LOCAL_GUARD, Fault
from tests.faults.upstream import RawUpstream
from tests.kit import ListSink, until
from tests.web.kit import chat, completion, standing

SERVICE = [fault for fault in GUARD if fault.name not in {"KILL", "in-stream"}]
FAULTS = {fault.name: fault for fault in GUARD}


@pytest.mark.parametrize("fault", SERVICE, ids=[fault.name for fault in SERVICE])
def test_a_guard_that_fails(proxy: Proxy, upstream: RawUpstream, fault: Fault) -> None:
    before = len(upstream.asked)
    with watched(proxy, fault) as seen:
        seen.answered(proxy.post(ask("fine", fault.name)))
    assert len(upstream.asked) == before


def test_a_guard_that_fails_in_the_middle_of_a_stream(proxy: Proxy) -> None:
    with watched(proxy, FAULTS["in-stream"]) as seen:
        got = proxy.post(ask("raise-late", stream=True))
        seen.answered(got)
    assert b"RAISE" not in got.body


def test_a_guard_that_is_killed(proxy: Proxy, guard: Started) -> None:
    """It kills itself while it judges, is gone, and comes back on its port."""
    with watched(proxy, FAULTS["KILL"]) as seen:
        seen.answered(proxy.post(ask("fine", "KILL")))
        guard.process.wait(60)
        seen.answered(proxy.post(ask("fine")))
        with guard_process(guard.port) as again:
            until(lambda: b'"stop"' in proxy.post(ask("fine")).body, "the guard is not back")
            again.process, guard.process = guard.process, again.process  # the new one stays for other tests


class OneLabel:
    """A family whose prompt is the text alone."""

    taxonomy = Taxonomy("one", (Category("unsafe", "unsafe"),))

    def render(self, check: Check) -> tuple[Prompt, ...]:
        return (Prompt((Piece(check.turn.text, "judged"),), ClassLogits(("unsafe",), "sigmoid"), "key"),)

    def parse(self, check: Check, readings: Sequence[Reading], guard: str) -> Verdict:
        return Verdict(readings[0].probabilities[0], (), guard)


class Breaking:
    """A model that finds everything safe until a text breaks it."""

    max_batch_tokens = 10_000
    slice_s = 0.05
    dtype = "float32"

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def encode(self, prompt: Prompt, stream: str | None = None) -> tuple[WorkItem, ...]:
        return (WorkItem(10, prompt.pieces[0].text),)

    def run(self, batch: Sequence[WorkItem]) -> list[WorkResult]:
        texts = " ".join(work.data for work in batch)
        if "raises" in texts:
            raise RuntimeError("no such kernel")
        if "memory" in texts:
            raise MemoryError
        if "killed" in texts:
            raise SystemExit
        if "hangs" in texts:
            self.let_go.wait(60)
        return [WorkResult(Reading((0.1,)), 10, 0) for _ in batch]

    def forget(self, stream: str) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("fault", LOCAL_GUARD, ids=[fault.name for fault in LOCAL_GUARD])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_model_that_fails(fault: Fault) -> None:
    """The request fails; unless the thread is gone or hangs, the next one is judged."""
    model, sink = Breaking(), ListSink()
    guard = LocalGuard("one", OneLabel(), lambda _: model, LocalLimits(timeout_s=2.0))
    asyncio.run(guard.start())
    with standing(completion("fine"), guard=guard, sinks={"list": sink}) as (url, upstream):
        got = httpx.post(f"{url}/v1/chat/completions", content=chat(f"this {fault.name} it"), timeout=60)
        assert upstream.seen == []
        metrics = httpx.get(f"{url}/metrics").text
        model.let_go.set()
        again = httpx.post(f"{url}/v1/chat/completions", content=chat("hello"), timeout=60)
    asyncio.run(guard.close())
    assert got.status_code == fault.status
    assert got.json()["error"]["code"] == fault.code
    assert told(sink.records[0]) == fault.records[0]
    assert sink.records[0].verdict is None
    assert f"guardproxy_{fault.metrics[0]} 1.0" in metrics
    passes = again.status_code == 200
    assert passes == (fault.name != "killed")
    if fault.name == "killed":
        assert "has stopped" in sink.records[-1].error
