"""The local guard and its scheduler with a scripted runner: order, cancellation, failure, several loops."""

import asyncio
import math
import threading

import pytest

from guardproxy.engine.runner import WorkItem, WorkResult
from guardproxy.errors import ConfigError, GuardUnavailable, Overloaded
from guardproxy.guards.local import LocalGuard, LocalLimits
from guardproxy.ports import ClassLogits, Piece, Prompt, Reading
from guardproxy.types import Category, Finding, Taxonomy, Verdict
from tests.engine.kit import check
from tests.kit import eventually, until


class Plain:
    """A family with one prompt, the text itself."""

    taxonomy = Taxonomy("t", (Category("bad", "Bad"),))

    def render(self, check):
        return (Prompt((Piece(check.turn.text, "judged"),), ClassLogits(("bad",), "sigmoid"), "k"),)

    def parse(self, check, readings, guard):
        if check.turn.text == "senseless":
            raise GuardUnavailable("the reading makes no sense")
        if check.turn.text == "bug":
            raise RuntimeError("a family's bug")
        value = readings[0].probabilities[0]
        return Verdict(value, (Finding("bad", value),), guard)


class Scripted:
    """A runner of texts: `windows` and `hole` have two windows, `book` 35; `poison` fails.

    `slow` waits for the gate, and `book` does after its first pass. The encoding of `unread` waits for it as well.
    """

    max_batch_tokens = 100
    slice_s = 60.0
    dtype = "float32"

    def __init__(self):
        self.batches = []
        self.forgotten = []
        self.gate = threading.Event()
        self.gate.set()
        self.waits = threading.Event()
        self.closed = False

    def encode(self, prompt, stream=None):
        text = prompt.pieces[0].text
        if text == "unread":
            self.waits.set()
            assert self.gate.wait(60)
        count = {"windows": 2, "hole": 2, "book": 35}.get(text)
        return tuple(WorkItem(10, f"{text} {at}") for at in range(1, count + 1)) if count else (WorkItem(10, text),)

    def run(self, batch):
        texts = [work.data for work in batch]
        if "slow" in texts or "book 11" in texts:
            self.waits.set()
            assert self.gate.wait(60)
        if "poison" in texts:
            raise RuntimeError("no such kernel")
        self.batches.append(texts)
        scores = {
            "book 31": 0.7,
            "windows 1": 0.2,
            "windows 2": 0.9,
            "harm": 0.8,
            "hole 2": math.nan,
            "nan": math.nan,
            "two": 2.0,
        }
        return [WorkResult(Reading((scores.get(text, 0.1),)), 10, 5) for text in texts]

    def forget(self, stream):
        self.forgotten.append(stream)

    def close(self):
        self.closed = True


def engine(runner, **options):
    """A local guard over a scripted runner."""
    return LocalGuard("scripted", Plain(), lambda _: runner, LocalLimits(**options))


async def run(runner, body, **options):
    """Start, run `body`, close."""
    guard = engine(runner, **options)
    await guard.start()
    try:
        return await body(guard)
    finally:
        await guard.close()


def test_a_model_that_is_loaded_is_not_waited_for():
    """Whoever stops while the weights load stops at once: the thread ends by itself, and closes what it has loaded."""
    runner, loads, go = Scripted(), threading.Event(), threading.Event()

    def load(_):
        loads.set()
        assert go.wait(60)
        return runner

    async def body():
        guard = LocalGuard("scripted", Plain(), load, LocalLimits())
        starting = asyncio.create_task(guard.start())
        await eventually(loads.is_set)
        starting.cancel()
        await asyncio.wait([starting])
        await guard.close()

    asyncio.run(body())
    assert not runner.closed
    go.set()
    until(lambda: runner.closed, "not closed")


def test_the_type_of_the_weights_is_known_while_a_model_is_loaded():
    """None before the start and after the close."""
    guard = engine(Scripted())

    async def body():
        before = guard.dtype
        await guard.start()
        during = guard.dtype
        await guard.close()
        return before, during, guard.dtype

    assert asyncio.run(body()) == (None, "float32", None)


def test_a_verdict_carries_its_account():
    """Queue, tokenise and forward seconds, tokens computed and reused, batch and windows are stated."""

    async def body(guard):
        return await guard.judge(check("harm"))

    verdict = asyncio.run(run(Scripted(), body))
    assert verdict.unsafe == 0.8
    usage = verdict.usage
    assert (usage.tokens_computed, usage.tokens_reused, usage.batch, usage.windows) == (10, 5, 1, 1)
    assert min(usage.queue_s, usage.tokenize_s, usage.forward_s) >= 0
    assert usage.share_s == usage.forward_s


def test_the_worst_window_counts():
    """A text in windows has the highest probability of any of them."""

    async def body(guard):
        return await guard.judge(check("windows"))

    verdict = asyncio.run(run(Scripted(), body))
    assert verdict.unsafe == 0.9
    assert verdict.usage.windows == 2


def test_a_text_of_many_windows_runs_in_passes_within_the_budget():
    """A check of many windows runs in passes within the token budget; every window counts."""
    runner = Scripted()

    async def body(guard):
        return await guard.judge(check("book"))

    verdict = asyncio.run(run(runner, body))
    assert verdict.unsafe == 0.7
    assert (verdict.usage.windows, verdict.usage.tokens_computed) == (35, 350)
    assert [len(batch) for batch in runner.batches if batch[0].startswith("book")] == [10, 10, 10, 5]


def test_a_check_that_nobody_waits_for_ends_between_two_passes():
    """A check whose caller was cancelled does not hold up the next check."""
    runner = Scripted()

    async def body(guard):
        runner.gate.clear()
        gone = asyncio.create_task(guard.judge(check("book")))
        await eventually(runner.waits.is_set)
        gone.cancel()
        await eventually(lambda: not guard.stats.queued)
        runner.gate.set()
        await guard.judge(check("after"))
        return guard.stats

    stats = asyncio.run(run(runner, body))
    assert [batch[0] for batch in runner.batches][-3:] == ["book 1", "book 11", "after"]
    assert stats.dropped == 1


@pytest.mark.parametrize("text", ["nan", "hole", "two"])
def test_what_is_no_probability_is_no_verdict(text):
    """NaN in any window, and a probability above 1, fail the check, even if the family does not look."""

    async def body(guard):
        with pytest.raises(GuardUnavailable, match=r"outside \[0, 1\]"):
            await guard.judge(check(text))

    asyncio.run(run(Scripted(), body))


def test_checks_that_wait_together_run_together():
    """Checks that arrive while a batch runs form the next batch, stream holders first."""
    runner = Scripted()

    async def body(guard):
        runner.gate.clear()
        first = asyncio.create_task(guard.judge(check("slow")))
        await eventually(runner.waits.is_set)
        more = [asyncio.create_task(guard.judge(check(f"text {at}"))) for at in range(3)]
        more.append(asyncio.create_task(guard.judge(check("streamed", stream="s"))))
        await eventually(lambda: guard.stats.queued == 5)
        runner.gate.set()
        await asyncio.gather(first, *more)

    asyncio.run(run(runner, body))
    assert runner.batches[-1] == ["streamed", "text 0", "text 1", "text 2"]


def test_a_cancelled_check_never_runs():
    """Cancelling the caller drops the check from the queue."""
    runner = Scripted()

    async def body(guard):
        runner.gate.clear()
        first = asyncio.create_task(guard.judge(check("slow")))
        await eventually(runner.waits.is_set)
        gone = asyncio.create_task(guard.judge(check("gone")))
        await eventually(lambda: guard.stats.queued == 2)
        gone.cancel()
        await eventually(lambda: guard.stats.queued == 1)
        runner.gate.set()
        await first
        await guard.judge(check("after"))
        return guard.stats

    stats = asyncio.run(run(runner, body))
    assert all("gone" not in batch for batch in runner.batches)
    assert stats.dropped == 1
    assert stats.queued == 0


def test_a_failing_check_fails_alone():
    """A batch that fails is run again in halves: only the check that makes it fail has no verdict."""
    runner = Scripted()

    async def body(guard):
        runner.gate.clear()
        first = asyncio.create_task(guard.judge(check("slow")))
        await eventually(runner.waits.is_set)
        rest = [asyncio.create_task(guard.judge(check(text))) for text in ("a", "poison", "b")]
        await eventually(lambda: guard.stats.queued == 4)
        runner.gate.set()
        return await asyncio.gather(first, *rest, return_exceptions=True)

    first, a, poison, b = asyncio.run(run(runner, body))
    assert [first.unsafe, a.unsafe, b.unsafe] == [0.1, 0.1, 0.1]
    assert isinstance(poison, GuardUnavailable)
    assert "no such kernel" in str(poison)


@pytest.mark.parametrize("text", ["senseless", "bug"])
def test_a_reading_that_makes_no_sense_is_unavailable(text):
    """Whatever a family raises, the caller sees GuardUnavailable."""

    async def body(guard):
        with pytest.raises(GuardUnavailable):
            await guard.judge(check(text))

    asyncio.run(run(Scripted(), body))


def test_a_timeout_is_unavailable():
    """A timeout raises GuardUnavailable, and the check leaves the queue."""
    runner = Scripted()

    async def body(guard):
        runner.gate.clear()
        with pytest.raises(GuardUnavailable, match=r"no answer within 0\.1 s"):
            await guard.judge(check("slow"))
        runner.gate.set()
        return guard.stats.queued

    assert asyncio.run(run(runner, body, timeout_s=0.1)) == 0


def test_the_door_closes_when_the_queue_is_long():
    """When the queue is longer than allowed, a check is refused before it is tokenised."""
    runner = Scripted()

    async def body(guard):
        runner.gate.clear()
        tasks = [asyncio.create_task(guard.judge(check("slow")))]
        await eventually(lambda: guard.stats.queued)  # it is encoded on another thread first
        with pytest.raises(Overloaded):
            await guard.judge(check("more"))
        runner.gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(run(runner, body, max_wait_s=0.0))


def test_several_event_loops_share_one_engine():
    """Checks from loops in different threads are answered in their own loops."""
    runner = Scripted()

    async def body(guard):
        def other():
            return asyncio.run(guard.judge(check("harm")))

        results = await asyncio.gather(*(asyncio.to_thread(other) for _ in range(4)), guard.judge(check("x")))
        return [verdict.unsafe for verdict in results]

    assert asyncio.run(run(runner, body)) == [0.8, 0.8, 0.8, 0.8, 0.1]


def test_an_engine_outlives_the_loop_that_started_it():
    """Started in one loop, it answers in the next and closes in a third."""
    runner = Scripted()
    guard = engine(runner)
    asyncio.run(guard.start())
    assert asyncio.run(guard.judge(check("harm"))).unsafe == 0.8
    asyncio.run(guard.close())
    assert runner.closed


def test_before_the_start_and_after_the_close_it_is_unavailable():
    """A guard that does not run raises GuardUnavailable, and can be started again."""
    guard = engine(Scripted())
    with pytest.raises(GuardUnavailable, match="not running"):
        asyncio.run(guard.judge(check("x")))
    asyncio.run(guard.start())
    asyncio.run(guard.close())
    with pytest.raises(GuardUnavailable, match="not running"):
        asyncio.run(guard.judge(check("x")))
    asyncio.run(guard.start())
    assert asyncio.run(guard.judge(check("harm"))).unsafe == 0.8
    asyncio.run(guard.close())


def test_closing_fails_what_waits():
    """A check in the queue of a guard that closes fails with GuardUnavailable."""
    runner = Scripted()

    async def body():
        guard = engine(runner)
        await guard.start()
        runner.gate.clear()
        first = asyncio.create_task(guard.judge(check("slow")))
        await eventually(runner.waits.is_set)
        rest = [asyncio.create_task(guard.judge(check(f"wide {at}"))) for at in range(15)]
        await eventually(lambda: guard.stats.queued == 16)
        closing = asyncio.create_task(guard.close())
        await asyncio.sleep(0.05)
        runner.gate.set()
        await closing
        return await asyncio.gather(first, *rest, return_exceptions=True)

    results = asyncio.run(body())
    assert results[0].unsafe == 0.1
    assert all(isinstance(each, GuardUnavailable) or each.unsafe == 0.1 for each in results)


def test_closing_fails_what_waits_to_be_encoded():
    """A check whose prompt is not yet encoded when the guard closes fails with GuardUnavailable; none is cancelled."""
    runner = Scripted()

    async def body():
        guard = engine(runner)
        await guard.start()
        runner.gate.clear()
        checks = [asyncio.create_task(guard.judge(check(text))) for text in ("unread", "wide 1", "wide 2")]
        await eventually(runner.waits.is_set)
        closing = asyncio.create_task(guard.close())
        await eventually(lambda: guard.dtype is None)
        runner.gate.set()
        await closing
        return await asyncio.gather(*checks, return_exceptions=True)

    assert all(isinstance(each, GuardUnavailable) for each in asyncio.run(body()))


def test_a_model_that_does_not_load_is_a_configuration_error():
    """start() raises what the loader raised, every time."""

    def load(_):
        raise ConfigError("no such model")

    guard = LocalGuard("g", Plain(), load)
    for _ in range(2):
        with pytest.raises(ConfigError, match="no such model"):
            asyncio.run(guard.start())


def test_ended_streams_are_forgotten_by_the_worker():
    """forget() reaches the runner on its own thread."""
    runner = Scripted()

    async def body(guard):
        guard.forget("s")
        await guard.judge(check("x"))

    asyncio.run(run(runner, body))
    assert runner.forgotten == ["s"]
