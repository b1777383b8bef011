"""The random sample of requests whose passed turns are kept for review."""

from random import Random


class ReviewSample:
    """Draws each request with the probability `share`. `source` is seeded by tests only."""

    def __init__(self, share: float, source: Random) -> None:
        self._share = share
        self._source = source

    def draw(self) -> bool:
        """Whether the request is in the sample, whatever it says and whatever is decided about it. Call it once."""
        return self._source.random() < self._share
