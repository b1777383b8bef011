"""Two classifiers as one model: the second, larger one reads only the windows of which the first one is unsure."""

from collections.abc import Sequence
from dataclasses import replace

from guardproxy.engine.encoder.runner import ClassifierRunner
from guardproxy.engine.load import SecondReading
from guardproxy.engine.runner import WorkItem, WorkResult
from guardproxy.errors import ConfigError
from guardproxy.ports import Prompt, Reading

_ROUNDING = 1e-6


class CascadeRunner:
    """Runs `first` on every window, and `second` on those where `again` says so.

    They are the models 0 and 1 of its work items. A window that `second` reads has the weighted mean of both readings,
    the others have the reading of `first`. It does not read a window whose mean would be below the window's `least`
    whatever it says: the reading of `first` is then below it as well. Implements engine.runner.Runner. Raises
    ConfigError if the models do not cut a text into the same tokens and windows.
    """

    def __init__(self, first: ClassifierRunner, second: ClassifierRunner, again: SecondReading) -> None:
        if first.layout != second.layout:
            raise ConfigError("the two models of a cascade must have the same tokenizer, windows and parts")
        self.slice_s = min(first.slice_s, second.slice_s)
        self.max_batch_tokens = min(first.max_batch_tokens, second.max_batch_tokens)
        self.dtype = " and ".join(dict.fromkeys((first.dtype, second.dtype)))
        self._first, self._second = first, second
        self._again = again

    def encode(self, prompt: Prompt, stream: str | None = None) -> tuple[WorkItem, ...]:
        """Encode `prompt` in windows for `first`; the cost of each is its tokens."""
        return self._first.encode(prompt, stream)

    def run(self, batch: Sequence[WorkItem]) -> list[WorkResult]:
        """One result per window, in order, of the model that the windows are for: all for the same.

        If `first` is unsure of a window, the result names the window as `second` must read it.
        """
        if batch[0].model:
            results = self._second.run(batch)
            return [
                replace(result, reading=self._mean(work.earlier, result.reading))
                for work, result in zip(batch, results, strict=True)
            ]
        results = self._first.run(batch)
        return [
            replace(result, then=replace(self._second.adopt(work), model=1, earlier=result.reading))
            if self._is_unsure(work, result)
            else result
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

    def _is_unsure(self, work: WorkItem, result: WorkResult) -> bool:
        """Whether the second reading counts, and can bring the mean to what the caller asks for."""
        again, probability = self._again, result.reading.probabilities[self._again.output]
        if not again.low <= probability <= again.high:
            return False
        most = again.first_weight * probability + (1 - again.first_weight)
        return most >= work.least - _ROUNDING

    def _mean(self, first: Reading | None, second: Reading) -> Reading:
        if first is None:
            raise ValueError("a window of the second model needs the reading of the first one")
        # A probability that is no number stays none: the family then finds the reading invalid.
        weight = self._again.first_weight
        pairs = zip(first.probabilities, second.probabilities, strict=True)
        return replace(second, probabilities=tuple(weight * one + (1 - weight) * other for one, other in pairs))
