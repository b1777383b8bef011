"""Clients beside each other at one guard: long texts, bursts, texts that take too long, and callers that leave."""

import asyncio
import threading
import time

import pytest

from guardproxy.app.registries import open_family
from guardproxy.asking import AsOneRequest, asked_by
from guardproxy.engine.runner import WorkItem, WorkResult
from guardproxy.errors import JudgingTooLong, Overloaded
from guardproxy.guards.local import LocalGuard, LocalLimits, ModelOptions, open_local_guard
from guardproxy.ports import Reading
from tests.engine.kit import check
from tests.guards.test_local import Plain
from tests.kit import eventually


class Steady:
    """A runner that needs `window_s` seconds for each window of ten characters; its slices take 20 ms."""

    max_batch_tokens = 10_000
    slice_s = 0.02
    dtype = "float32"

    def __init__(self, window_s=0.002):
        self.gate = threading.Event()
        self.gate.set()
        self.window_s = window_s
        self.windows = []
        self.slices = []

    def encode(self, prompt, stream=None):
        text = prompt.pieces[0].text
        return tuple(WorkItem(10, (text[:5], at)) for at in range(max(1, len(text) // 10)))

    def run(self, batch):
        assert self.gate.wait(60)
        time.sleep(self.window_s * len(batch))
        self.windows += [work.data for work in batch]
        self.slices.append(len(batch))
        return [WorkResult(Reading((0.1,)), work.cost, 0) for work in batch]

    def forget(self, stream):
        pass

    def close(self):
        pass


def serving(runner, body, **limits):
    """Run `body` with a started guard."""

    async def run():
        guard = LocalGuard("steady", Plain(), lambda _: runner, LocalLimits(**limits))
        await guard.start()
        runner.windows.clear()
        runner.slices.clear()
        try:
            return await body(guard)
        finally:
            await guard.close()

    return asyncio.run(run())


async def ask(guard, client, text, stream=None):
    """Wait until a request of its own has its verdict; raises what the guard raises."""
    asked_by(client)
    await guard.judge(check(text, stream=stream))


def text_of(name, windows):
    """A text of so many windows, whose name has five letters."""
    return (name + " " * (10 * windows))[: 10 * windows]


def test_short_checks_do_not_wait_for_a_long_one():
    """While a long check runs, others of another client and of its own wait for a few slices each."""
    runner = Steady()

    async def body(guard):
        long = asyncio.create_task(ask(guard, "large", text_of("large", 500)))
        await eventually(lambda: runner.windows)
        waited = []
        for client, name in (("small", "aaaaa"), ("large", "bbbbb"), ("small", "ccccc"), ("large", "ddddd")):
            runner.gate.clear()  # the guard stands still until the check waits in its queue
            short = asyncio.create_task(ask(guard, client, text_of(name, 1)))
            await eventually(lambda: guard.stats.queued == 2)
            before = len(runner.windows)
            runner.gate.set()
            await short
            waited.append(runner.windows.index((name, 0)) - before)
        assert not long.done()
        await long
        return waited

    assert max(serving(runner, body)) <= 100  # windows that ran meanwhile
    assert [at for name, at in runner.windows if name == "large"] == list(range(500))
    assert max(runner.slices) <= 40  # 10 by the time of a window, more if the clock was unsteady


def test_a_text_that_takes_too_long_is_refused_at_once():
    """A check fails before it runs; so does every check of a request whose checks together take too long."""
    runner = Steady()

    async def body(guard):
        with pytest.raises(JudgingTooLong, match=r"judging takes longer than guard.timeout_s: about \d+ s, not 1 s"):
            await ask(guard, "large", text_of("large", 5000))
        asked_by("many")
        many = [asyncio.create_task(guard.judge(check(text_of(f"m{at:04}", 40)))) for at in range(50)]
        failures = await asyncio.gather(*many, return_exceptions=True)
        return failures, guard.stats.queued

    failures, queued = serving(runner, body, timeout_s=1.0)
    assert any(isinstance(failure, JudgingTooLong) for failure in failures)
    assert not any(name == "large" for name, _ in runner.windows)
    assert len(runner.windows) < 1000
    assert queued == 0


def test_a_text_that_turns_out_to_take_too_long_ends_early():
    """If the machine becomes slower, the check ends when that is known, not at its timeout."""
    runner = Steady()

    async def body(guard):
        runner.window_s = 0.05
        with pytest.raises(JudgingTooLong):
            await ask(guard, "large", text_of("large", 900))

    serving(runner, body, timeout_s=10.0)
    assert len(runner.windows) < 150


def test_a_burst_is_refused_at_the_door():
    """Of checks for three seconds that come at once, those are accepted that wait less than the limit, and they pass.

    The others are refused before any check has run.
    """
    runner, order = Steady(), []

    async def one(guard, number):
        try:
            await ask(guard, f"client{number}", text_of(f"{number:05}", 10))
            order.append(None)
        except Overloaded as error:
            order.append(error)

    async def body(guard):
        runner.gate.clear()
        asked = asyncio.gather(*(one(guard, number) for number in range(150)))
        await eventually(lambda: guard.stats.queued + len(order) == 150)
        runner.gate.set()
        await asked

    serving(runner, body, max_wait_s=0.5)
    refused = [error for error in order if error is not None]
    assert 50 <= len(refused) < 150
    assert order[: len(refused)] == refused
    assert all(error.retry_s > 0 and "guard.max_wait_s" in str(error) for error in refused)


def test_the_checks_of_one_request_do_not_refuse_each_other():
    """A request with many turns waits for itself as long as it takes."""

    async def body(guard):
        asked_by("many")
        await asyncio.gather(*(guard.judge(check(text_of(f"m{at:04}", 10))) for at in range(30)))

    serving(Steady(), body, max_wait_s=0.1)


def test_checks_without_a_request_count_as_one_inside_the_context():
    """The views of a text that no request brought do not refuse each other, and the next text is another request."""

    async def body(guard):
        for _ in range(2):
            with AsOneRequest():
                await asyncio.gather(*(guard.judge(check(text_of(f"v{at:04}", 10))) for at in range(30)))
        with pytest.raises(Overloaded):
            await asyncio.gather(*(guard.judge(check(text_of(f"v{at:04}", 10))) for at in range(30)))

    serving(Steady(), body, max_wait_s=0.1)


def test_a_caller_that_leaves_frees_its_place():
    """A check that is cancelled while it runs no longer counts, and its other windows do not run."""
    runner = Steady()

    async def body(guard):
        long = asyncio.create_task(ask(guard, "large", text_of("large", 3000)))
        await eventually(lambda: runner.windows)
        runner.gate.clear()
        assert guard.stats.expected_s > 0.5
        before = len(runner.windows)
        long.cancel()
        await eventually(lambda: (guard.stats.queued, guard.stats.expected_s) == (0, 0.0))
        runner.gate.set()
        await ask(guard, "small", text_of("small", 1))
        return before

    before = serving(runner, body)
    assert sum(name == "large" for name, _ in runner.windows) <= before + 80  # the slice that ran, and one begun before


def test_streams_go_first():
    """A stream's check overtakes the requests that wait."""
    runner = Steady()

    async def body(guard):
        runner.gate.clear()
        waiting = [asyncio.create_task(ask(guard, f"c{at}", text_of(f"c{at:04}", 20))) for at in range(8)]
        await eventually(lambda: guard.stats.queued == 8)
        waiting.append(asyncio.create_task(ask(guard, "stream", text_of("sssss", 2), stream="s")))
        await eventually(lambda: guard.stats.queued == 9)
        runner.gate.set()
        await asyncio.gather(*waiting)

    serving(runner, body)
    assert runner.windows.index(("sssss", 1)) < len(runner.windows) - 8


def test_a_verdict_does_not_depend_on_what_runs_beside_it():
    """Texts of several windows have the same probabilities alone and in slices with others: 1e-5 in float32."""
    words = ("kill", "the", "bird", "paint", "knife", "river", "book", "pills", "steal", "music", "hate", "friend")
    texts = [" ".join(words[at * (number + 3) % 12] for at in range(40 + 70 * number)) for number in range(4)]
    options = ModelOptions("embedded", dtype="float32", threads=1)
    guard = open_local_guard("embedded", open_family("classifier", {}, None), options, LocalLimits(600, 600))

    async def body():
        await guard.start()
        try:
            alone = [await guard.judge(check(text)) for text in texts]
            beside = await asyncio.gather(*(guard.judge(check(text)) for text in texts))
            return alone, beside
        finally:
            await guard.close()

    for alone, beside in zip(*asyncio.run(body()), strict=True):
        assert beside.unsafe == pytest.approx(alone.unsafe, abs=1e-5)
        for one, other in zip(alone.findings, beside.findings, strict=True):
            assert other.probability == pytest.approx(one.probability, abs=1e-5)
