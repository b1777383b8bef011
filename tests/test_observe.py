"""Observers, masking, metrics and logs."""

import asyncio
import base64
import contextlib
import dataclasses
import json
import logging
import string
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
import structlog
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from guardproxy.errors import AuditUnavailable, ConfigError
from guardproxy.observe import (
    Metrics,
    Observers,
    configure_logging,
    mask_credentials,
    mask_event,
    mask_personal_data,
    masking,
    request_context,
)
from guardproxy.observe.masking import apply_text_rule
from guardproxy.observe.records import masked_record
from guardproxy.ports import Sink
from guardproxy.sinks.database import AuditStore
from guardproxy.sinks.jsonl import open_sink as open_jsonl
from guardproxy.sinks.log import LogSink
from guardproxy.types import Coverage, Decision, Finding, Reason, Record, Usage, Verdict
from tests.kit import eventually
from tests.sinks.kit import PASSED, record

# --- masking ---------------------------------------------------------------------------------------------------------

ALNUM = string.ascii_letters + string.digits


def drawn(alphabet: str, least: int, most: int | None = None) -> st.SearchStrategy[str]:
    """Text of these characters."""
    return st.text(st.sampled_from(alphabet), min_size=least, max_size=most or least)


def _jwt(parts: tuple[str, str, str]) -> str:
    return ".".join(["eyJhbGciOi" + parts[0], "eyJzdWIi" + parts[1], parts[2]])


KEYS = st.one_of(
    drawn(ALNUM, 20, 60).map("sk-{}".format),
    drawn(ALNUM + "-_", 30, 120).map("sk-proj-{}".format),
    drawn(ALNUM + "-_", 30, 120).map("sk-ant-api03-{}".format),
    st.tuples(st.sampled_from("pousr"), drawn(ALNUM, 36)).map(lambda t: f"gh{t[0]}_{t[1]}"),
    drawn(ALNUM + "_", 40, 82).map("github_pat_{}".format),
    drawn(string.ascii_uppercase + string.digits, 16).map("AKIA{}".format),
    drawn(ALNUM + "-_", 35).map("AIza{}".format),
    drawn(ALNUM, 34).map("hf_{}".format),
    drawn(ALNUM + "-", 24, 48).map("xoxb-{}".format),
    drawn(ALNUM, 24).map("sk_live_{}".format),
    st.tuples(drawn(ALNUM + "-_", 5, 40), drawn(ALNUM + "-_", 5, 40), drawn(ALNUM + "-_", 20, 43)).map(_jwt),
)
# Text around a key. Letters or digits directly beside a key would make it a different key.
AROUND = st.text(st.characters(), max_size=30).map(lambda text: f"{text} ")


@given(key=KEYS, before=AROUND, after=AROUND)
@settings(max_examples=400)
@example(key=_jwt(("00000", "00000", "ph-00000000000000000000")), before="", after="")  # its signature looks like a key
def test_issued_keys_never_survive(key: str, before: str, after: str) -> None:
    """A key of a known issuer is masked in any text and under any rule; no long piece of it is left."""
    text = f"{before}{key} {after}"
    for result in (
        mask_credentials(text),
        mask_credentials(text, guess=False),
        mask_personal_data(text),
        apply_text_rule(text, "full"),
    ):
        assert key not in result
        assert key[8:28] not in result or key[8:28] in before + after


@given(token=drawn(ALNUM + "-._~+/", 20, 200), scheme=st.sampled_from(["Bearer", "bearer", "BEARER"]))
def test_bearer_tokens_never_survive(token: str, scheme: str) -> None:
    """The token of an Authorization header is masked, with the header's name or without."""
    for text in (f"Authorization: {scheme} {token}", f"curl -H '{scheme} {token}'", f'{{"authorization":"{token}"}}'):
        assert token not in mask_credentials(text, guess=False)


@given(user=drawn(ALNUM, 1, 10), password=drawn(ALNUM + "@!:#%", 1, 30))
def test_passwords_never_survive(user: str, password: str) -> None:
    """Passwords in addresses, in assignments and in Basic credentials are masked."""
    basic = base64.b64encode(f"{user}:{password}".encode()).decode()
    assert f":{password}@" not in mask_credentials(f"see postgresql://{user}:{password}@db.internal/x")
    assert basic not in mask_credentials(f"Authorization: Basic {basic}")
    for form in ("password={}", "PASSWORD: {}", '"client_secret": "{}"', "api_key='{}'", "my password is 7{}"):
        text = mask_credentials(form.format("4711" + password))
        assert "4711" + password not in text


@given(body=st.text(st.characters(exclude_characters="-"), max_size=200), whole=st.booleans())
def test_pem_blocks_never_survive(body: str, whole: bool) -> None:
    """A PEM block is masked as a whole, even if its end is missing."""
    end = "-----END RSA PRIVATE KEY-----" if whole else ""
    text = f"here:\n-----BEGIN RSA PRIVATE KEY-----\nMII{body}{end}"
    assert mask_credentials(text) == "here:\n[private key]"


def test_drawn_strings_rarely_survive() -> None:
    """Of keys without a known form, 32 to 64 characters drawn from letters and digits, 99 of 100 are masked."""
    draw = Random(7)
    keys = ["".join(draw.choices(ALNUM, k=draw.randint(32, 64))) for _ in range(4000)]
    assert sum(key in mask_credentials(f"use {key} now") for key in keys) < 40
    digests = ["".join(draw.choices("0123456789abcdef", k=64)) for _ in range(1000)]
    assert not any(digest in mask_credentials(digest) for digest in digests)


@pytest.mark.parametrize(
    "text",
    [
        "Llama-4-Maverick-17B-128E-Instruct-FP8 and meta-llama/Llama-3.3-70B-Instruct",
        "request 550e8400-e29b-41d4-a716-446655440000",
        "bearer certificates are assets; basic understanding of JavaScript",
        "my password is wrong, what is a password?",
        "getUserNameFromDatabaseConnection in /usr/lib/python3/dist-packages/some_module",
        "sk-learn-documentation-page, risk-assessment-for-2024-portfolio",
        "at 12:30:45 on 2024-01-15, std::vector, version 3.11, 10 000 000 people, 1,234,567.89",
        "order 1234567890123456, pi is 3.14159265358979323846",
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    """Names, times, numbers and sentences about passwords are left as they are."""
    assert mask_personal_data(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to jane.doe+x@mail.example.co.uk, please", "write to [email], please"),
        ("call +44 20 7946 0958 or 0176 12345678", "call [phone] or [phone]"),
        ("(555) 123-4567 / 555.123.4567 / 00493012345678", "[phone] / [phone] / [phone]"),
        ("card 4111 1111 1111 1111 or 378282246310005", "card [card] or [card]"),
        ("no card: 4111 1111 1111 1112", "no card: 4111 1111 1111 1112"),
        ("12 4111-1111-1111-1111 34", "12 [card] 34"),
        ("pay DE89 3704 0044 0532 0130 00 TODAY", "pay [iban] TODAY"),
        ("gb82west12345698765432 ok", "[iban] ok"),
        ("from 192.168.0.1:8080, 2001:db8::8a2e:370:7334 or ::ffff:10.0.0.1", "from [ip]:8080, [ip] or [ip]"),
        ("999.1.1.1 is none", "999.1.1.1 is none"),
        ("key=AKIAIOSFODNN7EXAMPLE.", "key=[api key]."),
    ],
)
def test_personal_identifiers(text: str, expected: str) -> None:
    """E-mail addresses, phone, card and bank account numbers and IP addresses become placeholders."""
    assert mask_personal_data(text) == expected


@given(local=drawn(ALNUM + "._%+-", 1, 40), domain=drawn(string.ascii_lowercase, 1, 20))
def test_addresses_never_survive(local: str, domain: str) -> None:
    """`redacted` masks every e-mail address; `full` keeps it."""
    address = f"{local}@{domain}.example"
    assert address not in mask_personal_data(f"to {address} at once")
    assert f"{local}@" not in mask_personal_data(f"<{address}>")


@given(
    digits=drawn(string.digits, 11), shape=st.sampled_from([(4, 4, 4, 4), (16,), (4, 6, 6)]), gap=st.sampled_from(" -.")
)
def test_cards_never_survive(digits: str, shape: tuple[int, ...], gap: str) -> None:
    """A number that passes the Luhn check is masked, grouped or not, even beside other numbers."""
    body = "4929" + digits
    double = sum(sum(divmod(int(c) * (2 - place % 2), 10)) for place, c in enumerate(body))
    card = body + str(-double % 10)
    groups, at = [], 0
    for size in shape:
        groups.append(card[at : at + size])
        at += size
    written = gap.join(groups)
    result = mask_personal_data(f"pay 12 with {written}, code 123")
    assert written not in result
    assert result.startswith("pay 12 with [")


HARD = [
    "a",
    "a@",
    "1",
    "123 ",
    "411 ",
    "eyJ",
    "sk-",
    ":",
    "a1",
    "1.",
    "+1 ",
    "(0",
    "AB12 ",
    "://a:",
    "password=",
    "Bearer ",
]


@pytest.mark.parametrize("unit", [*HARD, "-----BEGIN A-----", "authorization: ", "ff:", "🙂", "aB1", "?key="])
def test_time_is_linear(unit: str) -> None:
    """No text makes masking slow: four times the text takes about four times as long."""
    mask_personal_data(unit * 100)
    small, large = (_seconds(unit * (size // len(unit))) for size in (30_000, 120_000))
    assert large < 0.25 or large / small < 10


def _seconds(text: str) -> float:
    best = 60.0
    for _ in range(3):
        started = time.thread_time()
        mask_personal_data(text)
        best = min(best, time.thread_time() - started)
    return best


@given(text=st.text(st.characters(), max_size=50))
def test_rules(text: str) -> None:
    """`hash` stores a digest that differs between texts, `none` stores nothing; no text makes a rule fail."""
    assert apply_text_rule(text, "none") == ""
    assert len(apply_text_rule(text, "hash")) == 64
    assert apply_text_rule(text, "hash") != apply_text_rule(text + "x", "hash")
    assert apply_text_rule(text, "redacted") == mask_personal_data(text)


# --- observers -------------------------------------------------------------------------------------------------------


class Kept(Sink):
    """A sink that stores records in memory, and is as slow or as broken as its arguments say."""

    def __init__(self, *, delay_s: float = 0.0, failures: int = 0) -> None:
        self.batches: list[list[Record]] = []
        self.closed = False
        self._delay_s = delay_s
        self._failures = failures

    @property
    def records(self) -> list[Record]:
        """Every stored record."""
        return [one for batch in self.batches for one in batch]

    async def write(self, records: Sequence[Record]) -> None:
        """Store the records."""
        if not records:
            return
        await asyncio.sleep(self._delay_s)
        if self._failures:
            self._failures -= 1
            raise OSError("the disk is full")
        self.batches.append(list(records))

    async def close(self) -> None:
        """Remember the call."""
        self.closed = True


class Unopened(Kept):
    """A sink that cannot be opened."""

    async def write(self, records: Sequence[Record]) -> None:
        """Fail."""
        raise OSError("no such host")


def values(metrics: Metrics) -> dict[str, float]:
    """Return every sample of a scrape by its name and labels."""
    content_type, body = metrics.render()
    assert content_type.startswith("text/plain")
    return {
        sample.name.removeprefix("guardproxy_") + "".join(f" {value}" for _, value in sorted(sample.labels.items())): (
            sample.value
        )
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


@contextlib.asynccontextmanager
async def _observing(sinks: Mapping[str, Sink], **options: Any) -> Any:
    metrics = Metrics(CollectorRegistry())
    observers = Observers(sinks, metrics=metrics, **options)
    await observers.start()
    try:
        yield observers, metrics
    finally:
        await observers.close()


def test_every_sink_gets_every_record_in_order() -> None:
    """Records reach all sinks, in order, in batches; closing flushes; metrics count them."""

    async def run() -> None:
        first, second = Kept(delay_s=0.02), Kept()
        async with _observing({"first": first, "second": second}) as (observers, metrics):
            for i in range(50):
                await observers.record([record(i), record(100 + i)])
        expected = [f"record-{n}" for i in range(50) for n in (i, 100 + i)]
        assert [one.id for one in first.records] == expected == [one.id for one in second.records]
        assert len(first.batches) < 10
        assert first.closed
        assert second.closed
        assert values(metrics)["audit_written_total first"] == 100

    asyncio.run(run())


def test_long_records_are_written_a_few_at_a_time() -> None:
    """A batch has a bound in characters; a record that has more is written by itself."""

    async def run() -> None:
        sink, long = Kept(delay_s=0.02), 600 * 1024
        async with _observing({"sink": sink}, text="none") as (observers, _):
            texts = ["a" * long, "b" * long, "c" * (3 * long), "d", "e"]
            await observers.record([dataclasses.replace(record(n), text=text) for n, text in enumerate(texts)])
        assert [len(batch) for batch in sink.batches] == [1, 1, 1, 2]
        assert [one.id for one in sink.records] == [f"record-{n}" for n in range(5)]

    asyncio.run(run())


def test_a_broken_sink_costs_nothing() -> None:
    """A failing sink is counted and logged; the answer and the other sinks continue; `record` does not wait."""

    async def run() -> None:
        good, bad = Kept(), Kept(failures=10**6)
        with capture_logs() as lines:
            async with _observing({"good": good, "bad": bad}) as (observers, metrics):
                await observers.record([record(1)])
        assert [one.id for one in good.records] == ["record-1"]
        assert values(metrics)["audit_failures_total bad"] == 1
        failed = [line for line in lines if line["event"] == "audit_failed"]
        assert [(line["sink"], line["records"], line["error"]) for line in failed] == [
            ("bad", 1, "OSError: the disk is full")
        ]

    asyncio.run(run())


def test_a_write_that_fails_once_is_repeated() -> None:
    """A temporary failure loses no record."""

    async def run() -> None:
        sink = Kept(failures=2)
        async with _observing({"sink": sink}, required=True) as (observers, metrics):
            await observers.record([record(1)])
        assert len(sink.records) == 1
        assert values(metrics)["audit_failures_total sink"] == 0

    asyncio.run(run())


def test_required_waits_and_raises() -> None:
    """With `required`, `record` returns once every sink has stored the record, and raises if a sink fails."""

    async def run() -> None:
        slow, bad = Kept(delay_s=0.05), Kept(failures=10**6)
        async with _observing({"slow": slow}, required=True) as (observers, _):
            await observers.record([record(1), record(2)])
            assert len(slow.records) == 2
        async with _observing({"slow": slow, "bad": bad}, required=True) as (observers, _):
            with pytest.raises(AuditUnavailable, match="'bad' failed") as caught:
                await observers.record([record(3)])
            assert caught.value.status == 503

    asyncio.run(run())


def test_required_has_a_deadline() -> None:
    """A hanging sink makes `record` raise after the write timeout instead of waiting for ever."""

    async def run() -> None:
        options = {"required": True, "write_timeout_s": 0.1}
        async with _observing({"sink": Kept(delay_s=60)}, **options) as (observers, _):
            started = time.monotonic()
            with pytest.raises(AuditUnavailable, match="TimeoutError"):
                await observers.record([record(1)])
            assert time.monotonic() - started < 50

    asyncio.run(run())


@pytest.mark.parametrize("required", [False, True])
def test_overflow_is_counted_logged_and_never_blocks(required: bool) -> None:
    """A full queue drops records at once, and logs a line when dropping begins and a line when it ends."""

    async def run() -> None:
        sink = Kept(delay_s=0.2)
        with capture_logs() as lines:
            async with _observing({"sink": sink}, queue_size=5, required=required) as (observers, metrics):
                tasks = [asyncio.create_task(observers.record([record(i)])) for i in range(20)]
                await asyncio.sleep(0.05)
                assert sum(task.done() for task in tasks) >= 15
                results = await asyncio.gather(*tasks, return_exceptions=True)
                await eventually(lambda: len(sink.records) == 5)
                await observers.record([record(99)])
        assert sum(isinstance(result, AuditUnavailable) for result in results) == (15 if required else 0)
        assert [one.id for one in sink.records] == [*(f"record-{i}" for i in range(5)), "record-99"]
        assert values(metrics)["audit_dropped_total sink"] == 15
        events = [line["event"] for line in lines]
        assert events == ["audit_dropping", "audit_catching_up"]
        assert lines[1]["dropped"] == 15

    asyncio.run(run())


def test_waiting_texts_are_bounded() -> None:
    """The queue is also bounded by the characters of its texts."""

    async def run() -> None:
        sink = Kept(delay_s=0.1)
        async with _observing({"sink": sink}, text="none") as (observers, metrics):
            await observers.record([record(i, text="x" * 20_000_000) for i in range(5)])
        assert len(sink.records) == 3
        assert values(metrics)["audit_dropped_total sink"] == 2

    asyncio.run(run())


def test_close_does_not_wait_for_ever() -> None:
    """Closing gives up on a hanging sink and counts the records that it did not store."""

    async def run() -> None:
        with capture_logs() as lines:
            async with _observing({"sink": Kept(delay_s=60)}, write_timeout_s=0.2) as (observers, metrics):
                await observers.record([record(1)])
        assert values(metrics)["audit_failures_total sink"] == 1
        assert [line["event"] for line in lines] == ["audit_failed"]

    asyncio.run(run())


def test_a_sink_that_cannot_be_opened() -> None:
    """A sink that cannot be opened stops the start, and the other sinks are closed."""

    async def run() -> None:
        other = Kept()
        with pytest.raises(AuditUnavailable, match="'sink' cannot be opened: OSError: no such host"):
            async with _observing({"sink": Unopened(), "other": other}):
                pass
        assert other.closed

    asyncio.run(run())


def test_start_comes_first() -> None:
    """Recording before the start is an error, because nothing would write the record."""
    observers = Observers({"sink": Kept()}, metrics=Metrics(CollectorRegistry()))
    with pytest.raises(RuntimeError, match="start"):
        asyncio.run(observers.record([record(1)]))


SECRET = "sk-proj-" + "Ab3" * 12


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("full", "I am a@b.example, key [api key]"), ("redacted", "I am [email], key [api key]"), ("none", "")],
)
def test_the_text_rule_comes_before_every_sink(rule: Any, expected: str) -> None:
    """Sinks get the text that the rule allows, and no credential in any field."""

    async def run() -> Record:
        sink = Kept()
        leaky = record(
            1, text=f"I am a@b.example, key {SECRET}", model=SECRET, upstream=f"http://u:{SECRET}@host", error=SECRET
        )
        async with _observing({"sink": sink}, text=rule) as (observers, _):
            await observers.record([leaky])
        return sink.records[0]

    found = asyncio.run(run())
    assert found.text == expected
    assert "Ab3Ab3" not in repr(found)


def test_long_texts_do_not_stop_the_loop() -> None:
    """While a text of a megabyte is masked, other tasks run."""

    async def run() -> None:
        sink = Kept()
        async with _observing({"a": sink, "b": sink}) as (observers, _):
            await observers.record([record(1, text="mail a@b.example 4111 1111 1111 1111 " * 25_000)])
            turns = 0
            while len(sink.records) < 2:
                await asyncio.sleep(0)
                turns += 1
        assert turns > 5
        assert set(sink.records[0].text.split()) == {"mail", "[email]", "[card]"}

    asyncio.run(run())


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics() -> None:
    """A scrape holds every counter and histogram, with label values from the configuration."""
    metrics = Metrics(CollectorRegistry())
    metrics.request("openai_chat", 200)
    metrics.request("none", 404)
    metrics.decision(record(1))
    metrics.decision(record(2, decision=PASSED))
    metrics.decision(record(3, decision=Decision("block", "", (), "opaque"), error="timeout"))
    metrics.decision(record(4, decision=Decision("block", "", (), "overload"), error="full"))
    metrics.decision(record(5, shadow=True))
    metrics.guard(0.02, Usage(queue_s=0.01, forward_s=0.005, tokens_computed=30, tokens_reused=100, batch=4))
    metrics.guard(0.0001, Usage(cached=True))
    metrics.queue_from(lambda: [(3, 0.5), (4, 1.0)])
    metrics.upstream(0.3)
    metrics.added(0.004)
    with metrics.stream_held(), metrics.stream_held():
        assert values(metrics)["streams_held"] == 2
    found = values(metrics)
    for name, value in {
        "requests_total 2xx openai_chat": 1,
        "requests_total 4xx none": 1,
        "decisions_total block default default user": 3,
        "decisions_total pass default default user": 1,
        "category_decisions_total block violence default user": 1,
        "shadow_decisions_total block default user": 1,
        "guard_errors_total guard_error": 1,
        "guard_errors_total overload": 1,
        "guard_seconds_count false": 1,
        "guard_seconds_count true": 1,
        "guard_queue_seconds_sum": 0.01,
        "guard_tokens_computed_total": 30,
        "guard_tokens_reused_total": 100,
        "guard_batch_checks_sum": 4,
        "guard_queue_checks": 7,
        "upstream_seconds_sum": 0.3,
        "added_seconds_sum": 0.004,
        "streams_held": 0,
    }.items():
        assert found[name] == value, name


def test_labels_are_bounded() -> None:
    """The number of time series is bounded, however many categories or wires there are."""
    metrics = Metrics(CollectorRegistry())
    for i in range(1000):
        metrics.decision(record(i, decision=Decision("flag", "", (Reason(f"c{i}", 0.9, 0.5, "flag"),))))
        metrics.request(f"wire {i}", 200)
    found = [name for name in values(metrics) if name.startswith(("category_decisions_total", "requests_total"))]
    assert len(found) == 202
    assert values(metrics)["category_decisions_total flag other default user"] == 900


# --- logs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def restored() -> Iterator[None]:
    """Restore the logging of the process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_logs(restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Logs of structlog and of uvicorn are JSON lines with the request id, without credentials and locals."""
    configure_logging("info", json=True)
    private = "a private matter"
    with request_context("550e8400e29b41d4a716446655440000"):
        structlog.get_logger("any").info("upstream", headers={"authorization": "x", "n": [f"Bearer {SECRET}"]}, n=3)
        logging.getLogger("uvicorn.access").warning('%s - "GET /?key=%s"', "10.0.0.1", SECRET)
        try:
            int(SECRET)
        except ValueError:
            structlog.get_logger("any").exception("failed", text_length=len(private))
    structlog.get_logger("any").debug("not shown")
    structlog.get_logger("any").info("lone \ud800", api_key=SECRET)
    out, err = capsys.readouterr()
    assert out == ""
    assert SECRET not in err
    assert private not in err
    first, second, third, fourth = (json.loads(line) for line in err.splitlines())
    assert first["headers"] == {"authorization": "[secret]", "n": ["Bearer [credentials]"]}
    assert (first["event"], first["level"], first["n"]) == ("upstream", "info", 3)
    assert first["request_id"] == second["request_id"] == "550e8400e29b41d4a716446655440000"
    assert second["event"] == '10.0.0.1 - "GET /?key=[secret]"'
    assert "ValueError: invalid literal for int() with base 10: '[api key]'" in third["exception"]
    assert fourth["api_key"] == "[secret]"
    assert "request_id" not in fourth


def test_console_logs(restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    """The readable format shows no control characters of a client's text."""
    configure_logging("debug", json=False)
    structlog.get_logger("any").debug("path \x1b[31m \u202e", path="/\x00\x07", token=SECRET)
    err = capsys.readouterr().err
    assert "path \\x1b[31m \\u202e" in err
    assert not {"\x1b", "\u202e", "\0", "\x07"} & set(err)
    assert SECRET not in err


def test_libraries_do_not_log_what_they_are_given(
    restored: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even at level debug, the log holds no stored text and no line for each request to a service."""
    configure_logging("debug", json=True)

    async def write() -> None:
        store = AuditStore(f"sqlite:///{tmp_path}/audit.sqlite3")
        await store.write([record(1, text="my diary")])
        await store.close()

    asyncio.run(write())
    logging.getLogger("httpx").info('HTTP Request: POST https://guard.example "HTTP/1.1 200 OK"')
    assert not {line for line in capsys.readouterr().err.splitlines() if "diary" in line or "HTTP Request" in line}


EMAIL = "jane.roe@mail.example"


def stuffed(value: Any, text: str) -> Any:
    """A dataclass with `text` in every string, at any depth."""
    if isinstance(value, str):
        return text
    if isinstance(value, tuple):
        return tuple(stuffed(item, text) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{field.name: stuffed(getattr(value, field.name), text) for field in dataclasses.fields(value)}
        )
    return value


def full_record(text: str) -> Record:
    """A record with an entry in every list, and `text` in every string."""
    verdict = Verdict(0.9, (Finding("harm", 0.9, "S1", "text"),), "guard", "taxonomy@1", Usage())
    decision = Decision("block", "replace", (Reason("harm", 0.9, 0.5, "block"),))
    coverage = (Coverage("messages[0].content", "user", "text", 5, judged=False, why="opaque: image"),)
    base = record(1, text="t", error="e")
    return cast(
        "Record", stuffed(dataclasses.replace(base, verdict=verdict, decision=decision, coverage=coverage), text)
    )


def kept_and_logged(item: Record, rule: Any, capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    """What a sink, the audit store, a JSON lines file and the log get of a record."""
    configure_logging("debug", json=True)
    sink = Kept()
    store, lines = AuditStore(f"sqlite:///{folder}/audit.sqlite3"), open_jsonl(f"jsonl://{folder}/audit.jsonl")

    async def run() -> None:
        sinks: dict[str, Sink] = {"kept": sink, "store": store, "lines": lines, "log": LogSink(text=True)}
        async with _observing(sinks, text=rule) as (observers, _):
            await observers.record([item])

    asyncio.run(run())
    assert len(sink.records) == 1
    files = b"".join(path.read_bytes() for path in folder.iterdir())
    return repr(sink.records) + capsys.readouterr().err + files.decode("utf-8", "replace")


@pytest.mark.parametrize("rule", ["full", "redacted", "hash", "none"])
@pytest.mark.parametrize(
    "around", ["{}", "a {} b", "messages[0].{}.text", "opaque: part of type {}", "x" * 110 + " {}"]
)
def test_no_string_of_a_record_leaks(
    rule: Any, around: str, restored: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Credentials reach no sink under any rule, e-mail addresses only under `full`: in no string of a record."""
    kept = kept_and_logged(full_record(around.format(SECRET)), rule, capsys, tmp_path)
    assert "Ab3Ab3" not in kept
    if rule != "full":
        (tmp_path / "mail").mkdir()
        kept = kept_and_logged(full_record(around.format(EMAIL)), rule, capsys, tmp_path / "mail")
        assert "jane" not in kept
        assert "roe@" not in kept


CLIENT_STRINGS = ("text", "error", "path", "why", "label", "category", "model")


@pytest.mark.parametrize("rule", ["hash", "none"])
@pytest.mark.parametrize("name", CLIENT_STRINGS)
@given(st.lists(drawn(string.ascii_letters, 1, 9), min_size=2, max_size=5))
def test_without_texts_no_text_is_kept(rule: Any, name: str, drawn_words: list[str]) -> None:
    """With `hash` and `none` no words of a client are in a path, a note, an error, a label, a category or the model."""
    words = " ".join(f"Zq{word}" for word in drawn_words)

    def put(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(put(item) for item in value)
        if not dataclasses.is_dataclass(value) or isinstance(value, type):
            return value
        names = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        changed = {key: words if key == name else put(item) for key, item in names.items()}
        return dataclasses.replace(value, **changed)

    item = full_record("x")
    kept = masked_record(put(item), rule)
    assert "Zq" not in repr(kept)


def test_without_texts_the_structure_is_kept() -> None:
    """Under `none` a record still says which part was not judged and why, and that an error happened."""
    coverage = (
        Coverage(
            "messages[3].content[0].my secret.text", "user", "opaque", 5, judged=False, why="opaque: part of type q"
        ),
        Coverage("messages[4].content", "tool", "text", 5, judged=False, why="policy: role tool is not judged"),
        Coverage("messages[5].content", "user", "text", 5, judged=False, why="guard unavailable"),
        Coverage("messages[6].content", "user", "text", 5, judged=False, why="language: zh, other"),
        Coverage("messages[7].content", "user", "text", 5, judged=False, why="language: my secret"),
    )
    item = masked_record(dataclasses.replace(record(1, text="t", error="e", model="gpt-4o"), coverage=coverage), "none")
    assert [(part.path, part.why) for part in item.coverage] == [
        ("messages[3].content[0].*.text", "opaque"),
        ("messages[4].content", "policy: role tool is not judged"),
        ("messages[5].content", "guard unavailable"),
        ("messages[6].content", "language: zh, other"),
        ("messages[7].content", "opaque"),
    ]
    assert (item.text, item.error, item.origin.model) == ("", "[not stored]", "gpt-4o")


@pytest.mark.parametrize("rule", ["full", "redacted", "hash", "none"])
def test_ordinary_records_are_kept(rule: Any) -> None:
    """Names, versions, ids and hashes of ordinary records stay as they are, digits in them included."""
    base = record(1, text="")
    origin = dataclasses.replace(
        base.origin,
        request_id="012345678901234567890123",
        client="0123456789abcdef,0301234567012345",
        model="hf.co/meta-llama/Llama-3.1-8B-Instruct-GGUF:Q4_K_M",
        upstream="http://10.0.0.3:8000/v1",
    )
    verdict = Verdict(0.9, (Finding("self-harm/intent", 0.9, "", "base64"),), "openai/gpt-oss-20b", "mlc@041234567890")
    coverage = (Coverage("messages[12].content[3].text", "user", "text", 5, judged=True),)
    item = dataclasses.replace(
        base, origin=origin, verdict=verdict, coverage=coverage, policy_version="041234567890", id="0" + "9" * 23
    )
    kept = masked_record(item, rule)
    assert dataclasses.replace(kept, text="") == item


def test_the_cut_of_a_path_shows_no_piece() -> None:
    """A path is masked before it is cut, so that no half of an address remains."""
    for padding in range(100, 125):
        coverage = (Coverage("k" * padding + "." + EMAIL, "user", "text", 1, judged=True),)
        item = masked_record(dataclasses.replace(record(1), coverage=coverage), "redacted")
        assert "jane" not in item.coverage[0].path
        assert len(item.coverage[0].path) <= 121


@pytest.mark.parametrize("field", ["path", "error", "event", "cause", "request_id", "problems"])
def test_logs_hold_no_personal_data(field: str, restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    """No field of a log line has an e-mail address; numbers of phones and cards are masked outside of identifiers."""
    configure_logging("info", json=True)
    fields = {"event": "x", field: f"/v1/models/{EMAIL}"}
    structlog.get_logger("any").info(**fields)
    structlog.get_logger("any").info(
        "y", error="call +49 30 1234567, upstream http://10.0.0.3:8000", policy="p@041234567890"
    )
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert "jane" not in json.dumps(first)
    assert second["error"] == "call [phone], upstream http://10.0.0.3:8000"
    assert second["policy"] == "p@041234567890"


@pytest.mark.parametrize("rule", ["hash", "none"])
def test_without_texts_no_line_quotes_a_client(rule: Any, restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    """With `hash` and `none` the lines about a request keep the structure of the path, and no error that quotes it."""
    configure_logging("info", json=True, text=rule)
    log = structlog.get_logger("any")
    log.info("request", path="/v1beta/models/blue zebra:generateContent", status=404)
    log.warning("request_failed", code="unreadable", error="messages[0].role: must not be 'blue zebra'", cause="zebra")
    try:
        int("blue zebra")
    except ValueError:
        log.exception("request_broke")
    log.error("reload_refused", problems=["f.yaml:1:1: is missing"])
    err = capsys.readouterr().err
    first, second, _, fourth = (json.loads(line) for line in err.splitlines())
    assert "zebra" not in err
    assert (first["path"], first["status"]) == ("/v1beta/models/*:generateContent", 404)
    assert (second["code"], second["error"]) == ("unreadable", "[not stored]")
    assert fourth["problems"] == ["f.yaml:1:1: is missing"]


def test_warnings_are_lines_of_the_log(restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    """A library's warning is one JSON line, as everything else on standard error."""
    assert configure_logging("info", json=True)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)  # catch_warnings has put its own function in place
        warnings.warn("old option", UserWarning, stacklevel=1)
    (line,) = capsys.readouterr().err.splitlines()
    assert "UserWarning: old option" in json.loads(line)["event"]
    assert not configure_logging("info", json=False)


def test_unknown_level() -> None:
    """An unknown level is a configuration error."""
    with pytest.raises(ConfigError, match="unknown log level 'loud'"):
        configure_logging("loud")


class _Opaque:
    def __str__(self) -> str:
        return f"<client with {SECRET}>"


@given(
    st.recursive(
        st.one_of(st.just(SECRET), st.just(SECRET.encode()), st.just(_Opaque()), st.integers(), st.none()),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(drawn(ALNUM, 3), inner, max_size=3)),
        max_leaves=8,
    )
)
def test_masking_reaches_every_field(value: Any) -> None:
    """A credential is masked at any depth and in any object of a log line."""
    event = mask_event(None, "info", {"event": "x", "value": value, "request_id": SECRET})
    assert SECRET not in repr(event)
    json.dumps(event)


@settings(max_examples=500)
@given(st.text(st.sampled_from("0123456789x+()-./ :DEa,é٣"), max_size=60))
def test_quick_checks_leave_nothing_out(text: str) -> None:
    """A text without what the patterns of personal data need has none that they find."""
    assert masking._HAS_NUMBER.search(text) or not (masking._PHONE.search(text) or any(masking._cards(text)))
    assert masking._HAS_IBAN.search(text) or not any(masking._IBAN_HEAD.finditer(text))
    assert masking._HAS_IPV6.search(text) or not masking._IPV6.search(text)
    assert masking._HAS_IPV4.search(text) or not masking._IPV4.search(text)
