"""A limit on many waits in a row with one timer: `asyncio.timeout` sets and removes one for each of them."""

import asyncio


class Patience:
    """Cancels the task that waits for too long. Each wait lies between `begin` and `end`; after the last, `close`.

    The timer stays when a wait ends, and finds the next wait when it runs out: only then is it set again.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelled: asyncio.Task[object] | None = None
        self._before = 0
        self._ends = 0.0

    def begin(self, seconds: float) -> None:
        """Begin a wait of the current task that may take so many seconds."""
        self._task = asyncio.current_task()
        if self._task is None:
            raise RuntimeError("not in a task")
        self._before = self._task.cancelling()
        self._ends = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._ends:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._ends, self._run_out)

    def _run_out(self) -> None:
        self._timer = None
        if self._task is None:
            return
        if self._loop.time() < self._ends:
            self._timer = self._loop.call_at(self._ends, self._run_out)
        else:
            self._cancelled = self._task
            self._task.cancel()

    def is_over(self) -> bool:
        """Whether the wait was cancelled only because it took too long; to be asked once, before `end`."""
        task, self._cancelled = self._cancelled, None
        return task is not None and task.uncancel() <= self._before

    def end(self) -> None:
        """End the wait."""
        self._task = None
        if self._cancelled is not None:  # too late: the wait had ended otherwise
            self._cancelled.uncancel()
            self._cancelled = None

    def close(self) -> None:
        """Remove the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
