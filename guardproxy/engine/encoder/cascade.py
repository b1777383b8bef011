"""Two classifiers as one model: the second, larger one reads only the windows of which the first one is unsure."""

from collections.abc import Sequence
from dataclasses import replace

from guardproxy.engine.encoder.runner import ClassifierRunner
from guardproxy.engine.load import SecondReading
from guardproxy.engine.runner import WorkItem, WorkResult
from guardproxy.errors import ConfigError
from guardproxy.ports import Prompt, Reading


class CascadeRunner:
    """Runs `first` on every window, and `second` on those where `again` says so.

    Such a window has the weighted mean of both readings, the others have the reading of `first`. Implements
    engine.runner.Runner.
    Raises ConfigError if the models do not cut a text into the same tokens and windows.
    """

    def __init__(self, first: ClassifierRunner, second: ClassifierRunner, again: SecondReading) -> None:
        if first.layout != second.layout:
            raise ConfigError("the two models of a cascade must have the same tokenizer, windows and parts")
        self.max_batch_tokens = min(first.max_batch_tokens, second.max_batch_tokens)
        self.dtype = " and ".join(dict.fromkeys((first.dtype, second.dtype)))
        self._first, self._second = first, second
        self._again = again

    def encode(self, prompt: Prompt, stream: str | None = None) -> tuple[WorkItem, ...]:
        """Encode `prompt` in windows; the cost of each is its tokens, which both models may read."""
        return self._first.encode(prompt, stream)

    def run(self, batch: Sequence[WorkItem]) -> list[WorkResult]:
        """One result per window, in order; it counts the tokens of both models that read the window."""
        results = self._first.run(batch)
        unsure = [place for place, result in enumerate(results) if self._is_unsure(result)]
        if unsure:
            seconds = self._second.run([self._second.adopt(batch[place]) for place in unsure])
            for place, result in zip(unsure, seconds, strict=True):
                earlier = results[place]
                results[place] = WorkResult(
                    reading=self._mean(earlier.reading, result.reading),
                    computed=earlier.computed + result.computed,
                    reused=earlier.reused + result.reused,
                )
        return results

    def forget(self, stream: str) -> None:
        """Drop the cached windows of a stream that has ended."""
        self._first.forget(stream)
        self._second.forget(stream)

    def close(self) -> None:
        """Release the weights of both models."""
        self._first.close()
        self._second.close()

    def _is_unsure(self, result: WorkResult) -> bool:
        again = self._again
        return again.low <= result.reading.probabilities[again.output] <= again.high

    def _mean(self, first: Reading, second: Reading) -> Reading:
        # A probability that is no number stays none: the family then finds the reading invalid.
        weight = self._again.first_weight
        pairs = zip(first.probabilities, second.probabilities, strict=True)
        return replace(second, probabilities=tuple(weight * one + (1 - weight) * other for one, other in pairs))
