"""Two classifiers as one model: the second, larger one reads only the windows of which the first one is unsure."""

from collections.abc import Sequence
from dataclasses import replace

from guardproxy.engine.encoder.runner import ClassifierRunner
from guardproxy.engine.load import Bounds
from guardproxy.engine.runner import WorkItem, WorkResult
from guardproxy.errors import ConfigError
from guardproxy.ports import Prompt


class CascadeRunner:
    """Runs `first` on every window, and `second` on those where the probability of `first` is within `bounds`.

    They are the models 0 and 1 of its work items. The reading of `second` stands for such a window, that of `first` for
    the others. Implements engine.runner.Runner. Raises ConfigError if the models do not cut a text into the same tokens
    and windows.
    """

    def __init__(self, first: ClassifierRunner, second: ClassifierRunner, bounds: Bounds) -> None:
        if first.layout != second.layout:
            raise ConfigError("the two models of a cascade must have the same tokenizer, windows and parts")
        self.slice_s = min(first.slice_s, second.slice_s)
        self.max_batch_tokens = min(first.max_batch_tokens, second.max_batch_tokens)
        self.dtype = " and ".join(dict.fromkeys((first.dtype, second.dtype)))
        self._first, self._second = first, second
        self._bounds = bounds

    def encode(self, prompt: Prompt, stream: str | None = None) -> tuple[WorkItem, ...]:
        """Encode `prompt` in windows for `first`; the cost of each is its tokens."""
        return self._first.encode(prompt, stream)

    def run(self, batch: Sequence[WorkItem]) -> list[WorkResult]:
        """One result per window, in order, of the model that the windows are for: all for the same.

        If `first` is unsure of a window, the result names the window as `second` must read it.
        """
        if batch[0].model:
            return self._second.run(batch)
        results = self._first.run(batch)
        return [
            replace(result, then=replace(self._second.adopt(work), model=1)) if self._is_unsure(result) else result
            for work, result in zip(batch, results, strict=True)
        ]

    def forget(self, stream: str) -> None:
        """Drop the cached windows of a stream that has ended."""
        self._first.forget(stream)
        self._second.forget(stream)

    def close(self) -> None:
        """Release the weights of both models."""
        self._first.close()
        self._second.close()

    def _is_unsure(self, result: WorkResult) -> bool:
        bounds = self._bounds
        return bounds.low <= result.reading.probabilities[bounds.output] <= bounds.high
