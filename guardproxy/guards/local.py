"""A guard whose model runs in this process: it renders checks for the engine and parses the readings to verdicts."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from guardproxy.asking import current_asker
from guardproxy.engine.fair_queue import Ticket
from guardproxy.engine.model_files import CASCADE, locate
from guardproxy.engine.runner import Runner
from guardproxy.engine.scheduler import ScheduledReadings, Scheduler, SchedulerStats
from guardproxy.engine.wait_policy import set_passive_wait_policy
from guardproxy.engine.worker import Job
from guardproxy.errors import ConfigError, GuardproxyError, GuardUnavailable
from guardproxy.ports import Family, LabelList, Prompt, Reading
from guardproxy.types import Check, Conversation, Message, Part, Usage, Verdict

# Rounding may move a probability this far out of [0, 1].
_ROUNDING = 1e-4

_GREETING = "Hello, how are you today?"
# The check that a guard runs when it starts; its prompt also decides which kind of runner is loaded.
PROBE = Check(Conversation((Message("user", (Part("probe", _GREETING),)),)), "user")
# A longer one: the times of both tell what a batch costs from what a token costs.
_LONG_PROBE = Check(Conversation((Message("user", (Part("probe", " ".join([_GREETING] * 24)),)),)), "user")


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which model a local guard loads, and how.

    `model` is a hub id, a directory, a GGUF file or `embedded`. `device` is `auto`, `cpu`, `cuda` or `cuda:N`; `dtype`
    is `auto` (bfloat16 on CUDA, the fastest of float32 and bfloat16 on a CPU) or the name of a torch type. `threads` is
    the number of CPU threads that torch uses in this process (None: torch's default). The categories of an unsafe turn
    are computed only if P(unsafe) is above `floor`.
    """

    model: str
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    floor: float = 0.0


@dataclass(frozen=True, slots=True)
class LocalLimits:
    """What a local guard spends on a check.

    A check fails after `timeout_s` seconds, and is refused if others would delay it by more than `max_wait_s` seconds.
    `max_batch_tokens` bounds one forward pass (None: the device's default).
    """

    timeout_s: float = 30.0
    max_wait_s: float = 2.0
    max_batch_tokens: int | None = None


class LocalGuard:
    """Implements ports.Guard with a model in this process; build it with `open_local_guard`.

    `load` makes the runner, on the thread that will own it, from a prompt of the kind that it will read.
    """

    def __init__(
        self, name: str, family: Family, load: Callable[[Prompt], Runner], limits: LocalLimits = LocalLimits()
    ) -> None:
        self.name = name
        self.taxonomy = family.taxonomy
        self._family = family
        self._timeout_s = limits.timeout_s
        self._scheduler = Scheduler(
            name,
            lambda: load(family.render(PROBE)[0]),
            max_wait_s=limits.max_wait_s,
            timeout_s=limits.timeout_s,
        )

    async def start(self) -> None:
        """Load the weights and run a few checks. Raises ConfigError if the model cannot be loaded or a check fails."""
        await self._scheduler.start()
        try:
            # The first also computes the policy text, which later ones reuse; from the others come the first estimates.
            for probe in (PROBE, PROBE, _LONG_PROBE, _LONG_PROBE):
                await self.judge(probe)
        except GuardUnavailable as error:
            raise ConfigError(f"guard {self.name!r}: the first check failed: {error}") from error

    async def close(self) -> None:
        """Release the model; checks in the queue fail with GuardUnavailable."""
        await self._scheduler.close()

    async def judge(self, check: Check) -> Verdict:
        """Judge the check's last message. Raises GuardUnavailable (also on timeout), Overloaded or JudgingTooLong.

        Cancelling the call drops the check from the queue.
        """
        asker = current_asker()
        reply = asker.answered or check.stream is not None
        try:
            # Before any work is done for the check.
            with self._scheduler.admitted(asker, reply=reply, characters=len(check.turn.text)) as ticket:
                async with asyncio.timeout(self._timeout_s):
                    return await self._judge(check, ticket)
        except TimeoutError:
            raise GuardUnavailable(f"guard {self.name!r} gave no answer within {self._timeout_s:g} s") from None
        except GuardproxyError:
            raise
        except Exception as error:
            # Any failure in a family or a runner means that the text was not judged; it must not count as safe.
            raise GuardUnavailable(f"guard {self.name!r} failed: {type(error).__name__}: {error}") from error

    def forget(self, stream: str) -> None:
        """Make the state of a streamed reply that has ended the first to be evicted."""
        self._scheduler.forget(stream)

    @property
    def dtype(self) -> str | None:
        """The type of the layers' weights, such as `bfloat16`; None while no model is loaded."""
        return self._scheduler.dtype

    @property
    def stats(self) -> SchedulerStats:
        """The length of the guard's queue and its counts so far."""
        return self._scheduler.stats

    async def _judge(self, check: Check, ticket: Ticket[Job]) -> Verdict:
        began = time.perf_counter()
        prompts = self._family.render(check)
        render_s = time.perf_counter() - began
        scheduled = await self._scheduler.read(ticket, prompts, check.stream)
        verdict = parsed(self._family, check, scheduled.readings, self.name)
        return replace(verdict, usage=_usage(scheduled, render_s))


def open_local_guard(
    name: str, family: Family, model_options: ModelOptions, limits: LocalLimits = LocalLimits()
) -> LocalGuard:
    """A guard named `name` that runs a model in this process. Raises nothing: `start` raises ConfigError."""

    def load(probe: Prompt) -> Runner:
        if model_options.model != CASCADE:
            locate(model_options.model)  # a wrong name is told before torch is imported
        set_passive_wait_policy()
        from guardproxy.engine.open_runner import open_runner  # noqa: PLC0415 - the first import of torch

        return open_runner(
            probe,
            model=model_options.model,
            device=model_options.device,
            dtype=model_options.dtype,
            threads=model_options.threads,
            floor=floor_of(family, model_options.floor),
            max_batch_tokens=limits.max_batch_tokens,
        )

    return LocalGuard(name, family, load, limits)


def floor_of(family: Family, floor: float) -> float:
    """The P(unsafe) above which the label lists of `family` are read, if thresholds begin at `floor`.

    P(unsafe) of several label lists together can be above a floor that each of them is below.
    """
    lists = sum(isinstance(prompt.readout, LabelList) for prompt in family.render(PROBE))
    return floor if lists < 2 else 0.0


def parsed(family: Family, check: Check, readings: Sequence[Reading], guard: str) -> Verdict:
    """The family's verdict. Raises GuardUnavailable if a probability is none."""
    return within(family.parse(check, readings, guard), guard)


def within(verdict: Verdict, guard: str) -> Verdict:
    """The verdict. Raises GuardUnavailable if a probability is none.

    A family may pass on what its model returned without looking, and NaN compares false with every threshold.
    """
    if not all(-_ROUNDING <= probability <= 1 + _ROUNDING for probability in _probabilities(verdict)):
        raise GuardUnavailable(f"guard {guard!r} returned a probability outside [0, 1]")
    return verdict


def _probabilities(verdict: Verdict) -> list[float]:
    return [verdict.unsafe, *(finding.probability for finding in verdict.findings)]


def _usage(scheduled: ScheduledReadings, render_s: float) -> Usage:
    """The usage of one check: its own times and tokens, and its share of the forward passes with its windows."""
    return Usage(
        queue_s=scheduled.queue_s,
        tokenize_s=render_s + scheduled.encode_s,
        forward_s=scheduled.forward_s,
        tokens_computed=scheduled.tokens_computed,
        tokens_reused=scheduled.tokens_reused,
        batch=scheduled.batch,
        windows=scheduled.windows,
        share_s=scheduled.share_s,
    )
