"""What the engine asks of a runner: turn a prompt into work off the worker, and do a batch of work on it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from guardproxy.ports import Prompt, Reading


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One forward's worth of a check: one window of one prompt, encoded.

    `cost` is what it weighs in a batch, in tokens; `data` is the runner's own.
    """

    cost: int
    data: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class WorkResult:
    """The reading of one piece of work, the tokens that were computed for it and those that were reused."""

    reading: Reading
    computed: int
    reused: int


class Runner(Protocol):
    """A model on a device. `encode` runs on any thread, everything else on the worker's."""

    max_batch_tokens: int

    def encode(self, prompt: Prompt, stream: str | None = None) -> tuple[WorkItem, ...]:
        """The windows of `prompt`. Raises GuardUnavailable where it cannot be read."""
        ...

    def forget(self, stream: str) -> None:
        """A streamed reply has ended."""
        ...

    def run(self, batch: Sequence[WorkItem]) -> list[WorkResult]:
        """One answer per work, in order."""
        ...

    def close(self) -> None:
        """Release the weights."""
        ...


def share_cores() -> None:
    """Let torch's threads sleep where they wait for each other; without effect once torch is imported.

    They spin otherwise, on the cores that the awaited ones need: beside two other busy processes a check took over ten
    times as long. An OMP_WAIT_POLICY of the operator's own is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@dataclass(frozen=True, slots=True)
class Options:
    """How to load a model: what `open_engine` was given."""

    model: str
    device: str = "auto"
    dtype: str = "auto"
    max_batch_tokens: int | None = None
    floor: float = 0.0
    threads: int | None = None

    def load(self, probe: Prompt) -> Runner:
        """The runner for prompts like `probe`. Raises ConfigError where the model cannot be had."""
        share_cores()
        from guardproxy.engine.select import open_runner  # noqa: PLC0415 - the first import of torch

        return open_runner(self, probe)
