"""The runner port: what the scheduler expects of a model on a device."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from guardproxy.ports import Prompt, Reading
from guardproxy.types import Span


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One encoded window of one prompt: the smallest unit of a batch.

    `cost` is its share of the batch's token budget, in tokens; only the runner knows what `data` holds. `span` has the
    characters of the judged text that it holds; None for all of them, or if the runner cannot say. For a runner of
    several models, `model` is the number of the one that reads it, and `earlier` the reading of the one before. A
    P(unsafe) below `least` need not be exact.
    """

    cost: int
    data: Any = field(repr=False)
    span: Span | None = None
    model: int = 0
    earlier: "Reading | None" = None
    least: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkResult:
    """The reading of one work item, and the numbers of tokens that were computed for it and reused.

    `then` is the same window for a further model, whose result replaces this reading; None if this reading stands.
    """

    reading: Reading
    computed: int
    reused: int
    then: WorkItem | None = None


class Runner(Protocol):
    """A model on a device. `encode` may be called on any thread, all else on the worker's thread only.

    `dtype` is the type of its layers' weights, such as `bfloat16`. A batch has at most `max_batch_tokens` tokens and
    takes at most `slice_s` seconds, or is one work item.
    """

    max_batch_tokens: int
    slice_s: float
    dtype: str

    def encode(self, prompt: Prompt, stream: str | None = None) -> tuple[WorkItem, ...]:
        """Encode `prompt` in one or more windows. Raises GuardUnavailable if the model cannot read it."""
        ...

    def forget(self, stream: str) -> None:
        """Make the state of a streamed reply that has ended the first to be evicted."""
        ...

    def run(self, batch: Sequence[WorkItem]) -> list[WorkResult]:
        """Compute a batch for one of the models: one result per work item, in order."""
        ...

    def close(self) -> None:
        """Release the weights."""
        ...
