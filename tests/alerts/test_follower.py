"""Alerts from the audit store: nothing that it holds is lost, whoever is killed, and each is sent by one process."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.alerting import Alert, AlertCondition, Told
from guardproxy.observe import Metrics
from guardproxy.observe.alerts import AlertFollower, NotTaken
from guardproxy.sinks.database import Filter, FollowedStore
from tests.alerts.kit import CONDITIONS, Clock, MemoryReceiver, counted, delivery, in_loop
from tests.kit import eventually
from tests.sinks.kit import HOSTILE, PASSED, record


class Process:
    """A process that tells the receiver `ops`. Leaving it without `close` is its kill."""

    def __init__(
        self,
        address: str,
        receiver: MemoryReceiver,
        clock: Clock,
        *,
        conditions: Mapping[str, AlertCondition] = CONDITIONS,
        limit: int = 100,
        name: str = "one",
        every_s: float = 0.0,
    ) -> None:
        self.store = FollowedStore(address)
        sending, self.metrics = delivery(receiver, clock, every_s=every_s)
        self.follower = AlertFollower(sending, conditions, self.store, limit, holder=name, clock=clock, hold_s=10)

    async def tell(self) -> None:
        """Do what a few seconds do: until nothing is read, sent or noted any more."""
        for _ in range(5):
            await self.follower.step()
            if self.follower._sending is not None and not self.receiver_is_stuck:
                await eventually(lambda: self.follower._sending is None or self.follower._sending.done())

    receiver_is_stuck = False

    async def kill(self) -> None:
        """End it as SIGKILL does: nothing is noted any more."""
        await self.follower._stop_sending()
        await self.store.close()


def expected(*numbers: int, conditions: Mapping[str, AlertCondition] = CONDITIONS) -> list[str]:
    """The ids of the alerts about single records."""
    return [Alert("blocked", conditions["blocked"], 1, "", record(number)).id for number in numbers]


@in_loop
async def test_what_is_stored_is_told_once(address: str) -> None:
    """From the beginning on, not what was stored before; of two processes, one tells and the other takes over."""
    clock, receiver = Clock(), MemoryReceiver()
    one, two = Process(address, receiver, clock), Process(address, receiver, clock, name="two")
    await one.store.write([record(0)])
    await one.store.begin(["ops"])
    await two.store.begin(["ops"])
    await one.tell()
    await one.store.write([record(1), record(2, decision=PASSED), record(3)])
    await two.tell()
    await one.tell()
    await two.tell()
    assert receiver.ids == expected(1, 3)
    assert counted(one.metrics, "sent_total") == 2
    assert counted(two.metrics, "sent_total") == 0
    await one.follower.close()  # lets the second one take over at once
    await two.store.write([record(4, client="another")])
    await two.tell()
    assert receiver.ids == expected(1, 3, 4)
    await two.follower.close()
    for process in (one, two):
        await process.store.close()


@in_loop
async def test_a_kill_loses_nothing_and_duplicates_have_the_same_id(address: str) -> None:
    """Killed while a message is sent, the next process sends it again with its id once the first one's time is over.

    What was counted towards an alert is still counted.
    """
    clock, receiver = Clock(), MemoryReceiver()
    one = Process(address, receiver, clock)
    await one.store.begin(["ops"])
    await one.store.write([record(1), record(2)])
    receiver.stuck = one.receiver_is_stuck = True
    await one.tell()
    await eventually(lambda: receiver.tried == 1)
    receiver.stuck = False
    await eventually(lambda: len(receiver.messages) == 1)  # taken, but the process does not live to note it
    await one.kill()
    two = Process(address, receiver, clock, name="two")
    await two.store.write([record(3)])
    await two.tell()
    assert len(receiver.messages) == 1  # the first process could still live
    clock.now += 11
    await two.tell()
    assert receiver.messages[0].id == receiver.messages[1].id
    many = Alert("many", CONDITIONS["many"], 3, "c11e47", record(3)).id
    assert receiver.ids == [*expected(1, 2), *expected(1, 2), *expected(3), many]
    await two.follower.close()
    await two.store.close()


@in_loop
async def test_a_receiver_that_is_down_holds_up_reading_and_nothing_is_lost(address: str) -> None:
    """At most `limit` alerts wait; the store holds the rest, and the receiver gets all of it when it is back."""
    clock, receiver = Clock(), MemoryReceiver()
    one = Process(address, receiver, clock, conditions={"blocked": CONDITIONS["blocked"]}, limit=10)
    await one.store.begin(["ops"])
    receiver.stuck = one.receiver_is_stuck = True
    for first in range(0, 50, 10):
        await one.store.write([record(number) for number in range(first, first + 10)])
        await one.tell()
    assert counted(one.metrics, "waiting") == 20  # 10 in the message, 10 behind it
    await one.kill()
    receiver.stuck = False
    clock.now += 11
    two = Process(address, receiver, clock, conditions={"blocked": CONDITIONS["blocked"]}, limit=10, name="two")
    for _ in range(5):
        await two.tell()
    assert receiver.ids == expected(*range(50))
    await two.follower.close()
    await two.store.close()


@in_loop
async def test_a_process_that_was_taken_over_stops(address: str) -> None:
    """One that could not note anything for too long, and finds another one at work, sends nothing more."""
    clock, receiver = Clock(), MemoryReceiver()
    one, two = Process(address, receiver, clock), Process(address, receiver, clock, name="two")
    await one.store.begin(["ops"])
    await one.tell()
    clock.now += 11
    await two.tell()
    await two.store.write([record(1)])
    await one.tell()
    assert receiver.ids == []
    await two.tell()
    assert receiver.ids == expected(1)
    for process in (one, two):
        await process.follower.close()
        await process.store.close()


class FullStore(FollowedStore):
    """A store into which nothing can be noted."""

    async def note(self, receiver: str, holder: str, told: Told, until: float) -> bool:
        raise OSError("the disk is full")


@in_loop
async def test_nothing_is_sent_that_was_not_noted(tmp_path: Path) -> None:
    """Else a message could be sent again in another form."""
    clock, receiver = Clock(), MemoryReceiver()
    store = FullStore(f"sqlite:///{tmp_path}/audit.sqlite3")
    sending, _ = delivery(receiver, clock)
    follower = AlertFollower(sending, CONDITIONS, store, 10, holder="one", clock=clock)
    await store.begin(["ops"])
    await store.write([record(1)])
    for _ in range(2):
        with pytest.raises(OSError, match="full"):
            await follower.step()
    assert follower._sending is None
    await follower.close()
    await store.close()


@in_loop
async def test_what_was_erased_is_not_told(address: str) -> None:
    """An alert waits as the number of its record: what was erased meanwhile is counted and not sent."""
    clock, receiver = Clock(), MemoryReceiver()
    one = Process(address, receiver, clock, conditions={"blocked": CONDITIONS["blocked"]}, every_s=60)
    await one.store.begin(["ops"])
    await one.store.write([record(1)])
    await one.tell()
    await one.store.write([record(2), record(3, text=HOSTILE)])
    await one.tell()
    assert receiver.ids == expected(1)  # the others wait for the next message
    await one.store.erase(Filter(request_id="request-2"))
    clock.now += 60
    await one.tell()
    assert receiver.ids == expected(1, 3)
    assert counted(one.metrics, 'dropped_total{reason="erased",') == 1
    assert receiver.messages[1].alerts[0].record.text == HOSTILE
    verified = await one.store.verify()
    assert not verified.problems
    await one.follower.close()
    await one.store.close()


@in_loop
async def test_a_digest(address: str) -> None:
    """The first alert is sent at once, what comes within `every_s` in one message; a long one is cut at 100."""
    clock, receiver = Clock(), MemoryReceiver()
    one = Process(address, receiver, clock, conditions={"blocked": CONDITIONS["blocked"]}, limit=1000, every_s=60)
    await one.store.begin(["ops"])
    await one.store.write([record(0)])
    await one.tell()
    await one.store.write([record(number) for number in range(1, 151)])
    await one.tell()
    assert [len(message.alerts) for message in receiver.messages] == [1]
    for _ in range(2):
        clock.now += 60
        await one.tell()
    assert [(len(message.alerts), message.waiting) for message in receiver.messages] == [(1, 0), (100, 50), (50, 0)]
    receiver.answers = [NotTaken("down")] * 3
    await one.follower.close()
    await one.store.close()


@pytest.mark.parametrize("state", ["no JSON", '{"waiting": 5}', '{"waiting": [["blocked"]]}', '{"windows": [1]}'])
@in_loop
async def test_a_state_that_cannot_be_read_stops_nothing(tmp_path: object, state: str) -> None:
    """It is logged; what is stored from there on is told."""
    clock, receiver = Clock(), MemoryReceiver()
    one = Process(f"sqlite:///{tmp_path}/audit.sqlite3", receiver, clock)
    await one.store.begin(["ops"])
    told = await one.store.seize("ops", "zero", clock.now, clock.now + 1)
    assert told is not None
    await one.store.note("ops", "zero", told._replace(state=state), 0.0)
    await one.store.write([record(1)])
    await one.tell()
    assert receiver.ids == expected(1)
    await one.follower.close()
    again = await one.store.seize("ops", "zero", clock.now, clock.now + 1)
    assert again is not None
    assert json.loads(again.state)["message"] == []
    await one.store.close()


class World:
    """Two processes with one store and one receiver. A step is one of `STEPS`."""

    def __init__(self, folder: str) -> None:
        self._address = f"sqlite:///{folder}/audit.sqlite3"
        self.clock, self.receiver, self.written = Clock(), MemoryReceiver(), 0
        self._killed = 0
        self.processes = {name: self._process(name) for name in ("one", "two")}

    def _process(self, name: str) -> Process:
        return Process(self._address, self.receiver, self.clock, name=f"{name}-{self._killed}")

    async def do(self, step: str) -> None:
        verb, _, name = step.partition(" ")
        if verb == "write":
            await self.processes["one"].store.write([record(self.written, client="a")])
            self.written += 1
        elif verb == "tell":
            self.processes[name].receiver_is_stuck = self.receiver.stuck
            await self.processes[name].tell()
        elif verb == "kill":
            self._killed += 1
            await self.processes[name].kill()
            self.processes[name] = self._process(name)
        elif verb == "later":
            self.clock.now += 11
        else:
            self.receiver.stuck = verb == "stuck"


STEPS = (
    *("write", "write", "tell one", "tell two", "tell one", "tell two"),
    *("stuck", "free", "kill one", "kill two", "later"),
)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=30))
def test_whatever_happens_everything_is_told(steps: list[str]) -> None:
    """Two processes are killed and replaced at any point, and the receiver is stuck at times.

    In the end every record was told, in the order of the store. Without kills, and without a process that lost its
    time, each was told once. What is told again has the same id.
    """

    @in_loop
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            world = World(folder)
            await world.processes["one"].store.begin(["ops"])
            for step in [*steps, "free", *("later", "tell one", "tell two") * 3]:
                await world.do(step)
            for process in world.processes.values():
                await process.follower.close()
                await process.store.close()
        told = [one for message in world.receiver.messages for one in message.alerts if one.name == "blocked"]
        every = [f"record-{number}" for number in range(world.written)]
        assert list(dict.fromkeys(one.record.id for one in told)) == every
        assert len({(one.record.id, one.id) for one in told}) == world.written
        if not {"kill one", "kill two", "later"} & {*steps}:
            assert len(told) == world.written

    run()


def test_metrics_begin_at_zero() -> None:
    """Every series of a receiver exists from the start."""
    _, metrics = delivery(MemoryReceiver(), Clock())
    assert isinstance(metrics, Metrics)
    for name in ("sent_total", "failures_total", "waiting", "forgotten_total", 'dropped_total{reason="closed",'):
        assert counted(metrics, name) == 0
