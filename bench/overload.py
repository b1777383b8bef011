"""Several times the capacity, in simulated time: what passes, and how long requests take.

    python -m bench.overload

The queue, the estimates and the decision at the door are the real ones; only the models are simulated, as lines over
their tokens. Five seeds for each row. So nothing depends on the machine, and what else it does.
"""

import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from guardproxy.asking import Asker
from guardproxy.engine.backlog import Backlog
from guardproxy.engine.cost import CostModel
from guardproxy.engine.fair_queue import FairQueue, Ticket, WaitingWindow
from guardproxy.engine.runner import WorkItem
from guardproxy.engine.scheduler import expected_wait

MAX_WAIT_S = 2.0
SLICE_S = 0.05
# Seconds of a batch and of a token in both models of the embedded guard, on one thread of a CPU of 2020.
PER_BATCH, PER_TOKEN = (0.001, 0.003), (0.00015, 0.0009)


@dataclass(frozen=True, slots=True)
class Texts:
    """Tokens of a check, and the share of checks that the second model must read."""

    least: int
    most: int
    second: float

    @property
    def seconds(self) -> float:
        """The mean of a check."""
        return (self.least + self.most) / 2 * (PER_TOKEN[0] + self.second * PER_TOKEN[1])


@dataclass(eq=False, slots=True)
class Judged:
    """A check: its request came at `came`, it was admitted at `began`."""

    came: float
    began: float
    expected: float
    second: bool
    share: float = 0.0
    open: Counter[int] = field(default_factory=Counter)


class Machine:
    """A guard with a clock of its own. Each request has a client of its own and, once it has passed, a reply."""

    def __init__(self, requests: Texts, replies: Texts, seed: int) -> None:
        self.texts = {False: requests, True: replies}
        self.draw = random.Random(seed)
        self.cost, self.backlog = CostModel(SLICE_S), Backlog()
        self.queue: FairQueue[Judged] = FairQueue(lambda work: self.cost.seconds(work.model, work.cost) or SLICE_S)
        self.now = 0.0
        self.refused: Counter[bool] = Counter()  # by whether the check was that of a reply
        self.done: list[tuple[float, float]] = []  # when a request came and when its reply passed

    def serve(self, arrivals: deque[float]) -> None:
        """Answer requests that come at these times."""
        numbers = count()
        while arrivals or not self.queue.is_empty:
            while arrivals and arrivals[0] <= self.now:
                self.admit(Asker(f"client{next(numbers)}"), arrivals.popleft(), reply=False)
            if self.queue.is_empty:
                self.now = max(self.now, arrivals[0])
            else:
                self.run(self.queue.take(SLICE_S, 1_000_000))

    def admit(self, asker: Asker, came: float, *, reply: bool) -> None:
        """Queue a check, unless it is refused at the door."""
        texts = self.texts[reply]
        tokens = self.draw.randint(texts.least, texts.most)
        expected = self.cost.expected(tokens)
        if expected_wait(self.backlog, self.cost, asker, reply=reply, seconds=expected) > MAX_WAIT_S:
            self.refused[reply] += 1
            return
        check = Judged(came, self.now, expected, self.draw.random() < texts.second, open=Counter({0: tokens}))
        ticket = Ticket(check, asker, reply, deque([(0, WorkItem(tokens, None))]))
        self.backlog.book(ticket, expected)
        self.backlog.change(ticket, expected, one_window=True)
        self.queue.add(ticket)

    def run(self, windows: Sequence[WaitingWindow[Judged]]) -> None:
        """Run a slice."""
        for model in dict.fromkeys(window.work.model for window in windows):
            batch = [window for window in windows if window.work.model == model]
            tokens = sum(window.work.cost for window in batch)
            seconds = PER_BATCH[model] + PER_TOKEN[model] * tokens
            self.now += seconds
            self.cost.observe(model, tokens, seconds)
            again = [window for window in batch if not model and window.ticket.item.second]
            if not model:
                self.cost.observe_share(tokens, sum(window.work.cost for window in again))
            for window in batch:
                window.ticket.item.share += seconds * window.work.cost / tokens
                window.ticket.item.open[model] -= window.work.cost
            for window in again:
                check = window.ticket.item
                check.open[1] += window.work.cost
                self.queue.add_again(window.ticket, 0, WorkItem(window.work.cost, None, model=1))
                self.backlog.change(window.ticket, self.cost.expected(check.open[0], check.open[1]))
            for window in batch:
                if window not in again:
                    self.end(window.ticket)

    def end(self, ticket: Ticket[Judged]) -> None:
        """Count a check that has ended, and let the reply come at once."""
        check = ticket.item
        self.backlog.remove(ticket)
        waited = self.now - check.began - check.share
        self.cost.observe_check(check.share, check.expected, waited, reply=ticket.reply)
        if ticket.reply:
            self.done.append((check.came, self.now))
        else:
            self.admit(ticket.asker, check.came, reply=True)


SHORT, REPLY = Texts(25, 45, 0.3), Texts(110, 150, 0.1)
CASES = ((SHORT, REPLY, 3), (SHORT, REPLY, 10), (Texts(20, 200, 0.3), REPLY, 3), (SHORT, Texts(110, 150, 0.3), 3))
BEFORE_S, FLOOD_S = 5.0, 20.0


def flooded(requests: Texts, replies: Texts, times: int, seed: int) -> tuple[Machine, float]:
    """Half the capacity for five seconds, then `times` the capacity for twenty; and the share of it that passed."""
    capacity = 1 / (requests.seconds + replies.seconds)
    arrivals = deque(at / (0.5 * capacity) for at in range(int(BEFORE_S * 0.5 * capacity)))
    arrivals.extend(BEFORE_S + at / (times * capacity) for at in range(int(FLOOD_S * times * capacity)))
    machine = Machine(requests, replies, seed)
    machine.serve(arrivals)
    passed = sum(BEFORE_S <= end <= BEFORE_S + FLOOD_S for _, end in machine.done)
    return machine, passed / (capacity * FLOOD_S)


def main() -> None:
    """Print the table."""
    print("| requests, tokens | replies, tokens | times the capacity | goodput % | p99 s | slowest s |")
    print("|---|---|--:|--:|--:|--:|")
    for requests, replies, times in CASES:
        shares, late, slowest = [], [], []
        for seed in range(5):
            machine, share = flooded(requests, replies, times, seed)
            took = sorted(end - came for came, end in machine.done)
            shares.append(f"{100 * share:.0f}")
            late.append(f"{took[int(0.99 * len(took))]:.1f}")
            slowest.append(f"{took[-1]:.1f}")
        texts = " | ".join(f"{each.least} to {each.most}, {each.second:.0%} read twice" for each in (requests, replies))
        spans = " | ".join(f"{min(each, key=float)} to {max(each, key=float)}" for each in (shares, late, slowest))
        print(f"| {texts} | {times} | {spans} |")


if __name__ == "__main__":
    main()
