"""Messages to one receiver: sent until it takes them, at most one in a while."""

import time
from collections.abc import Callable, Sequence

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential
from tenacity.wait import wait_base

from guardproxy.alerting import Alert, AlertMessage
from guardproxy.observe.alert_metrics import AlertMetrics
from guardproxy.observe.alerts.receivers import AlertReceiver, NotTaken

_BACKOFF = wait_random_exponential(multiplier=1, max=60)
_REFUSALS = 5  # attempts after which a message that is refused is given up
MESSAGE_ALERTS = 100  # the most alerts of one message

_log = structlog.get_logger("guardproxy.alerts")


class AlertDelivery:
    """Sends messages to the receiver `name`, at least `every_s` seconds after one another by `clock`.

    `sent_at` is when the last message was sent, in seconds since 1970. `backoff` are the waits between attempts.
    """

    def __init__(
        self,
        name: str,
        receiver: AlertReceiver,
        metrics: AlertMetrics,
        *,
        every_s: float,
        clock: Callable[[], float] = time.time,
        backoff: wait_base = _BACKOFF,
    ) -> None:
        self.name = name
        self.metrics = metrics
        self.sent_at = 0.0
        self._receiver = receiver
        self._every_s = every_s
        self._clock = clock
        self._backoff = backoff
        self._failing = False
        metrics.begin(name)

    @property
    def wait_s(self) -> float:
        """Seconds until the next message may be sent; 0 if it may be now."""
        # A clock that was set back must not hold messages for longer than between two of them.
        return min(max(0.0, self.sent_at + self._every_s - self._clock()), self._every_s)

    async def deliver(self, alerts: Sequence[Alert], waiting: int = 0) -> None:
        """Send alerts as one message, again and again until the receiver takes it, or has refused it five times.

        Returns when the receiver has them, or never gets them. `waiting` as in `AlertMessage`.
        """
        message = AlertMessage(tuple(alerts), self._clock(), waiting)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(NotTaken),
            wait=self._backoff,
            stop=_is_refused,
            before_sleep=self._note_failure,
            reraise=True,
        )
        try:
            came_back: str = await retrying(self._receiver.send, message)
        except NotTaken as error:
            self.metrics.failed(self.name)
            self.metrics.dropped(self.name, "refused", len(alerts))
            _log.error("alerts_refused", receiver=self.name, alerts=len(alerts), error=str(error))
        else:
            self.metrics.sent(self.name, len(alerts))
            _log.info("alerts_sent", receiver=self.name, alerts=len(alerts), message=message.id, answer=came_back)
            if self._failing:
                _log.warning("alerts_recovered", receiver=self.name)
            self._failing = False
        self.sent_at = self._clock()

    def _note_failure(self, state: RetryCallState) -> None:
        self.metrics.failed(self.name)
        if not self._failing and state.outcome:  # one log line when a receiver begins to fail and one when it is back
            _log.error("alerts_failing", receiver=self.name, error=str(state.outcome.exception()))
        self._failing = True

    async def close(self) -> None:
        """Close the receiver's connections."""
        await self._receiver.close()


def _is_refused(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    return isinstance(error, NotTaken) and error.refused and state.attempt_number >= _REFUSALS
