"""A message is sent until it is taken; how often, and what is given up, is counted. Alerts from memory are bounded."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from structlog.testing import capture_logs

from guardproxy.alerting import Alert
from guardproxy.app import Service, read
from guardproxy.observe import Observers
from guardproxy.observe.alerts import MemoryAlerts, NotTaken
from tests.alerts.kit import CONDITIONS, Clock, MemoryReceiver, counted, delivery, in_loop
from tests.kit import Scripted, ScriptedUpstream, eventually, serve, until
from tests.sinks.kit import PASSED, record
from tests.test_service import CONFIG, Judge, is_ready


def alert(number: int) -> Alert:
    """An alert about a record."""
    return Alert("blocked", CONDITIONS["blocked"], 1, "", record(number))


@in_loop
async def test_a_message_is_sent_until_it_is_taken() -> None:
    """A receiver that fails gets the same message again; one that refuses it five times never gets it."""
    receiver, clock = MemoryReceiver(), Clock()
    sending, metrics = delivery(receiver, clock, every_s=60)
    receiver.answers = [NotTaken("down")] * 7
    await sending.deliver([alert(1)])
    assert (receiver.tried, receiver.ids) == (8, [alert(1).id])
    assert (counted(metrics, "sent_total"), counted(metrics, "failures_total")) == (1, 7)
    receiver.answers = [NotTaken("no such field", refused=True)] * 5
    await sending.deliver([alert(2)])
    await sending.deliver([alert(3)])
    assert receiver.ids == [alert(1).id, alert(3).id]
    assert counted(metrics, 'dropped_total{reason="refused",') == 1
    assert counted(metrics, "failures_total") == 12


@in_loop
async def test_messages_keep_their_distance() -> None:
    """The next message waits for `every_s` seconds since the last one, and no longer if the clock was set back."""
    clock = Clock()
    sending, _ = delivery(MemoryReceiver(), clock, every_s=60)
    assert sending.wait_s == 0
    await sending.deliver([alert(1)])
    clock.now += 20
    assert sending.wait_s == 40
    clock.now -= 1000
    assert sending.wait_s == 60


@in_loop
async def test_alerts_from_memory() -> None:
    """Without a store: a receiver that takes nothing delays no record, and the queue is bounded."""
    receiver = MemoryReceiver()
    sending, metrics = delivery(receiver, Clock())
    sink = MemoryAlerts(sending, {"blocked": CONDITIONS["blocked"]}, 3)
    observers = Observers({"alerts ops": sink}, metrics=metrics, required=True)
    await observers.start()
    receiver.stuck = True
    await observers.record([record(1), record(2, decision=PASSED)])
    await eventually(lambda: receiver.tried == 1)
    await observers.record([record(number) for number in range(3, 10)])  # returns: no record waits for the receiver
    assert counted(metrics, 'dropped_total{reason="full",') == 4
    assert counted(metrics, "waiting") == 4
    receiver.stuck = False
    await eventually(lambda: len(receiver.ids) == 4)
    assert [one.record.id for message in receiver.messages for one in message.alerts] == [
        f"record-{number}" for number in (1, 3, 4, 5)
    ]
    assert counted(metrics, "waiting") == 0
    await observers.close()
    assert receiver.closed


@in_loop
async def test_alerts_from_memory_are_sent_at_the_end() -> None:
    """What waits for its time when the process ends is sent then."""
    receiver = MemoryReceiver()
    sending, metrics = delivery(receiver, Clock(), every_s=60)
    sink = MemoryAlerts(sending, CONDITIONS, 100)
    await sink.write(())
    await sink.write([record(1)])
    await eventually(lambda: len(receiver.ids) == 1)
    await sink.write([record(2), record(3)])
    await asyncio.sleep(0)
    assert len(receiver.ids) == 1  # the next message waits
    await sink.close()
    assert [len(message.alerts) for message in receiver.messages] == [1, 3]  # the third record completes `many`
    assert counted(metrics, "sent_total") == 4


def test_a_service_without_a_store_tells_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log says so at the start; the alert has the masked text, because it was asked for."""
    monkeypatch.setenv("GUARD_KEY", "a-key")
    judge = Starlette(routes=[Route("/v1/moderations", Judge().answer, methods=["POST"])])
    hook = ScriptedUpstream([Scripted(status=204)])
    with serve(judge) as guard, serve(hook) as url:
        path = tmp_path / "guardproxy.yaml"
        receiver = f'{{chat: {{webhook: "{url}", format: slack, text: true}}}}'
        alerts = f"alerts: {{conditions: {{blocked: {{action: block}}}}, receivers: {receiver}}}\n"
        path.write_text(CONFIG % guard + alerts)
        source = read(str(path), None)
        with capture_logs() as lines, serve(Service(source.file, source).app) as proxy:
            until(lambda: is_ready(proxy))
            text = "how do I kill ann@example.com?"
            body = {"model": "m", "messages": [{"role": "user", "content": text}]}
            assert httpx.post(f"{proxy}/v1/chat/completions", json=body).headers["x-guardproxy-action"] == "block"
            until(lambda: hook.seen)
            metrics = httpx.get(f"{proxy}/metrics").text
    assert [line["receivers"] for line in lines if line["event"] == "alerts_from_memory"] == [("chat",)]
    shown = json.loads(hook.seen[0].body)["text"]
    assert "how do I kill [email]?" in shown
    assert 'guardproxy_alerts_sent_total{receiver="chat"}' in metrics
