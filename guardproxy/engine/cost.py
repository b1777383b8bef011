"""How long work takes: a running estimate from the batches that ran. Pure: no clock, no threads, no torch."""

from dataclasses import dataclass

# Weight of the latest batch in the moving averages. It is low, because checks come in while an estimate is too low by
# chance.
_SMOOTHING = 0.05
# The same for the wait of a reply.
_WAIT_SMOOTHING = 0.02
# The same for the time of whole checks: a full queue answers many requests before the first of their replies.
_SLOW = 0.005
# Checks of fewer seconds together hardly correct an estimate.
_PRIOR_S = 0.25
# Batches whose sizes vary by less than this share of their mean do not tell the time of a batch from that of a token.
_LEAST_VARIATION = 0.2
# A token of a long batch takes at least this share of the average: noise must not make slices many times too large.
_LEAST_SHARE = 0.25


@dataclass(slots=True)
class _Line:
    """Seconds of a batch as a line over its tokens, by least squares with exponentially decreasing weights.

    The fields are weighted means: of tokens, seconds, and their products.
    """

    batches: int = 0
    tokens: float = 0.0
    seconds: float = 0.0
    squares: float = 0.0
    products: float = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """Note a batch. The first one is ignored: it also sets up the model's kernels and caches."""
        self.batches += 1
        if self.batches == 1:
            return
        weight = max(_SMOOTHING, 1 / (self.batches - 1))
        self.tokens += weight * (tokens - self.tokens)
        self.seconds += weight * (seconds - self.seconds)
        self.squares += weight * (tokens * tokens - self.squares)
        self.products += weight * (tokens * seconds - self.products)

    @property
    def is_known(self) -> bool:
        """Whether a batch was noted."""
        return self.tokens > 0

    def per_token(self, batch_s: float) -> float:
        """Seconds per token in batches of `batch_s` seconds, so with its share of what each batch costs."""
        if not self.is_known:
            return 0.0
        mean = self.seconds / self.tokens
        variance = self.squares - self.tokens**2
        if variance <= (_LEAST_VARIATION * self.tokens) ** 2:
            return mean
        slope = (self.products - self.tokens * self.seconds) / variance
        base = self.seconds - slope * self.tokens
        if slope <= 0 or not 0 < base < batch_s / 2:  # a line that says nothing, or batches that cannot be filled
            return mean
        return max(slope / (1 - base / batch_s), _LEAST_SHARE * mean)


class CostModel:
    """Estimates seconds from tokens, for the models of one runner, by their numbers.

    Some windows that model 0 has read are read by model 1 as well; their share is a running estimate too. `batch_s` is
    the time of a full batch, `reply_wait_s` what a check of a reply waits at present. One thread may write while others
    read.
    """

    def __init__(self, batch_s: float) -> None:
        self.batch_s = batch_s
        self._lines: dict[int, _Line] = {}
        self._first_tokens = self._second_tokens = 0.0
        self.reply_wait_s = 0.0
        # Of replies and of requests: the seconds that checks took, and those that were expected, with fading weights.
        self._checks = {True: (0.0, 0.0), False: (0.0, 0.0)}

    def observe(self, model: int, tokens: int, seconds: float) -> None:
        """Note a batch of one model."""
        self._lines.setdefault(model, _Line()).add(tokens, seconds)

    def observe_share(self, first: int, second: int) -> None:
        """Note that of `first` tokens that model 0 has read, model 1 must read `second` as well."""
        self._first_tokens += _SMOOTHING * (first - self._first_tokens)
        self._second_tokens += _SMOOTHING * (second - self._second_tokens)

    def observe_check(self, seconds: float, expected_s: float, waited_s: float, *, reply: bool) -> None:
        """Note what a whole check took, one of a reply or of a request, and what was expected when it came.

        `waited_s` is the time that the slices of others took meanwhile.
        """
        if reply:
            self.reply_wait_s += _WAIT_SMOOTHING * (waited_s - self.reply_wait_s)
        for kind in (True, False):
            took, expected = self._checks[kind]
            more, expected_more = (seconds, expected_s) if kind is reply else (0.0, 0.0)
            self._checks[kind] = ((1 - _SLOW) * took + more, (1 - _SLOW) * expected + expected_more)

    @property
    def replies_share(self) -> float:
        """Seconds of checks of replies for each second of checks of requests."""
        return self._checks[True][0] / self._checks[False][0] if self._checks[False][0] else 0.0

    def correction(self, *, reply: bool) -> float:
        """What checks of replies or of requests have taken of late, for each second that was expected of them.

        More checks come in when too little is expected, and the machine may slow down while they wait.
        """
        took, expected = self._checks[reply]
        return (took + _PRIOR_S) / (expected + _PRIOR_S)

    def seconds(self, model: int, tokens: float) -> float:
        """Seconds of these tokens in full batches of a model; those of model 0 for a model that has not run yet."""
        line = self._lines.get(model)
        if line is None or not line.is_known:
            line = self._lines.get(0, _Line())
        return tokens * line.per_token(self.batch_s)

    def is_known(self, model: int) -> bool:
        """Whether the seconds of a model are an estimate of its own."""
        return model in self._lines and self._lines[model].is_known

    def expected(self, first: int, second: int = 0) -> float:
        """Seconds of a check that has `first` tokens left for model 0 and `second` for model 1.

        Of the first, model 1 will probably read some as well. A batch's worth of them costs what batches cost on
        average: they are as full as the checks of the moment fill them. What is beyond it runs in full batches.
        """
        share = self._second_tokens / self._first_tokens if self._first_tokens else 0.0
        return self._expected(0, first) + self._expected(1, second + share * first)

    def _expected(self, model: int, tokens: float) -> float:
        line = self._lines.get(model)
        if line is None or not line.is_known:
            return self.seconds(model, tokens)
        mean, full = line.seconds / line.tokens, line.per_token(self.batch_s)
        return tokens * full + min(tokens, line.tokens) * max(0.0, mean - full)
