"""Faults, and what they come to: the tests assert it, and `python -m tests.faults` writes it into docs/faults.md."""

from dataclasses import dataclass
from typing import Final, Literal

End = Literal["whole", "refused", "error event", "unended", "closed", "kept open"]
ENDS: Final[dict[End, str]] = {
    "whole": "the whole answer",
    "refused": "the text judged so far, then the protocol's end of a refused reply",
    "error event": "the text judged so far, the protocol's error as the last event, and a connection that closes early",
    "unended": "what the upstream sent, without an end",
    "closed": "a connection that closes",
    "kept open": "an answer in time, and nothing else of the fault",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, and what it comes to.

    `status` is the client's HTTP status, 0 without an answer; `code` the error's in its body. `records` are the side
    and outcome of each record of the request, `incomplete` behind a reply that was not read to its end. `metrics` are
    those that count it, without `guardproxy_`.
    """

    name: str
    what: str
    status: int = 200
    code: str = ""
    end: End = "whole"
    records: tuple[str, ...] = ("user pass",)
    metrics: tuple[str, ...] = ()
    stream: bool = False
    note: str = ""

    @property
    def client(self) -> str:
        """What the client gets, as the page says it."""
        if not self.status:
            return ENDS[self.end]
        return (
            f"{self.status} `{self.code}`" if self.code and self.status != 200 else f"{self.status}; {ENDS[self.end]}"
        )


def _failure(code: str) -> tuple[str, ...]:
    return (f'failures_total{{code="{code}"}}',)


def _lost(name: str, what: str, status: int, code: str, note: str = "", *, stream: bool = False) -> Fault:
    """An upstream's fault before the client has anything: an error, and no record of a reply that nobody could read."""
    code = f"upstream_{code}"
    return Fault(name, what, status, code, metrics=_failure(code), stream=stream, note=note)


def _cut(
    name: str, what: str, code: str, records: tuple[str, ...] = ("user pass", "assistant pass incomplete")
) -> Fault:
    """An upstream's fault in the middle of a stream."""
    code = f"upstream_{code}"
    return Fault(name, what, 200, code, "error event", records, _failure(code), stream=True)


def _refused(name: str, what: str, records: tuple[str, ...] = ("user pass", "assistant refuse incomplete")) -> Fault:
    """A stream that cannot be read on."""
    return Fault(name, what, 200, "", "refused", records, _failure("upstream_unreadable"), stream=True)


_WHOLE = ("user pass", "assistant pass")

UPSTREAM: Final = (
    _lost("refuses", "refuses the connection", 502, "unavailable"),
    _lost("silent", "reads the request and never answers", 504, "timeout"),
    _lost("slow-head", "sends its headers a byte at a time", 504, "timeout"),
    _lost("closes", "closes before its headers", 502, "unavailable"),
    _lost("resets", "resets before its headers", 502, "unavailable"),
    _lost("no-http", "sends bytes that are not HTTP", 502, "unreadable"),
    _lost("endless-head", "sends headers without end", 502, "unreadable"),
    _lost("stalled-body", "stops in the middle of a whole reply", 504, "timeout"),
    _lost("short-body", "closes in the middle of a whole reply", 502, "unavailable"),
    _lost("slow-body", "sends a whole reply a byte at a time", 504, "timeout", "after `upstream.timeouts.answer_s`"),
    _lost("no-json", "sends a whole reply that is not JSON", 502, "unreadable", "the log has the reason, not the text"),
    _lost("endless-body", "sends a whole reply of 5 GB", 502, "unreadable", "at `limits.reply_bytes`"),
    _lost("stalled-stream", "stops behind the headers of a stream", 504, "timeout"),
    _cut("stalls", "stops in the middle of a stream", "timeout"),
    _cut("slow-stream", "sends comments now and then, and no more text", "timeout"),
    _cut("dies", "closes in the middle of a stream", "unavailable"),
    _cut("resets-late", "resets in the middle of a stream", "unavailable"),
    _lost("bad-chunk", "breaks the framing of a stream at its beginning", 502, "unreadable"),
    _cut("bad-chunk-late", "breaks the framing of a stream later", "timeout"),
    _refused("bad-frame", "sends a frame that is not JSON"),
    _refused("comments", "sends comments without end"),
    _refused("one-frame", "sends one frame without end"),
    Fault("old-whole", "answers in HTTP/1.0, the body until the connection closes", records=_WHOLE),
    _lost("old-short", "breaks off a whole reply in HTTP/1.0", 502, "unavailable"),
    Fault("old-stream", "streams in HTTP/1.0", records=_WHOLE, stream=True),
    Fault(
        "old-dies",
        "breaks off a stream in HTTP/1.0, which cannot show it",
        end="unended",
        records=("user pass", "assistant pass incomplete"),
        stream=True,
        note="no finish reason and no `[DONE]`",
    ),
)

_LEFT = _failure("client_left")
_RECORDED_INCOMPLETE = ("user pass", "assistant pass incomplete")

CLIENT: Final = (
    Fault("in-head", "leaves in the middle of its headers", 0, end="closed", records=()),
    Fault("in-body", "leaves in the middle of its body", 0, end="closed", records=(), metrics=_LEFT),
    Fault(
        "while-judged", "leaves while its turn is judged", 0, end="closed", metrics=_LEFT, note="nothing is forwarded"
    ),
    Fault("before-answer", "leaves before the upstream answers", 0, end="closed", metrics=_LEFT),
    Fault(
        "in-stream", "leaves in the middle of a stream", 0, end="closed", records=_RECORDED_INCOMPLETE, metrics=_LEFT
    ),
    Fault("after", "leaves after the answer", 200, records=_WHOLE),
    Fault(
        "slow-head", "sends its headers too slowly", 408, end="closed", records=(), metrics=_failure("request_timeout")
    ),
    Fault("slow-body", "sends its body too slowly", 408, end="closed", records=(), metrics=_failure("request_timeout")),
    Fault("long-head", "sends 100 KB of headers", 431, end="closed", records=(), metrics=_failure("headers_too_large")),
    Fault(
        "trailers",
        "sends trailers without end",
        431,
        end="closed",
        records=(),
        metrics=_failure("headers_too_large"),
        note="behind 64 KB",
    ),
    Fault(
        "upgrade",
        "asks for another protocol (`Upgrade: h2c`, as Java's client does)",
        records=_WHOLE,
        note="the answer is in HTTP/1.1",
    ),
)

_GUARD_CODE: Final = "guard_unavailable"
_GUARD_ERROR: Final = ('guard_errors_total{cause="guard_error"}', *_failure(_GUARD_CODE))
_NOT_JUDGED: Final = ("user refuse",)


def _unjudged(name: str, what: str, note: str = "") -> Fault:
    """A guard's fault while it judges the user's turn: the policy's `on_guard_error`, by default an error."""
    return Fault(name, what, 503, _GUARD_CODE, records=_NOT_JUDGED, metrics=_GUARD_ERROR, note=note)


GUARD: Final = (
    _unjudged("RAISE", "fails with an error"),
    _unjudged("HANG", "gives no answer", "after `guard.timeout_s`"),
    _unjudged("GARBAGE", "answers something that is not JSON"),
    _unjudged("NONSENSE", "answers probabilities above 1"),
    _unjudged("ENDLESS", "answers 5 GB"),
    _unjudged("MEMORY", "runs out of memory"),
    _unjudged("KILL", "is killed while it judges, and is gone", "when it is back, texts pass again"),
    Fault(
        "in-stream",
        "fails in the middle of a stream",
        200,
        _GUARD_CODE,
        "error event",
        ("user pass", "assistant refuse"),
        _GUARD_ERROR,
        stream=True,
    ),
)
LOCAL_GUARD: Final = (
    _unjudged("raises", "raises in the proxy's process"),
    _unjudged("memory", "raises MemoryError in the proxy's process"),
    _unjudged("hangs", "hangs in its thread", "after `guard.timeout_s`"),
    _unjudged("killed", "loses its thread", "every check fails at once, until the proxy is restarted"),
)


def _gets(result: str) -> tuple[str, ...]:
    return (f'shared_state_gets_total{{kind="verdict",result="{result}"}}',)


SHARED: Final = (
    Fault(
        "killed-state",
        "is killed (SIGKILL) under load",
        records=_WHOLE,
        metrics=_gets("failed"),
        note="each proxy judges by itself; log line `shared_state_down`",
    ),
    Fault("empty-state", "is back, and has lost everything", records=_WHOLE, metrics=_gets("missing")),
    Fault(
        "frozen-state",
        "hangs",
        records=_WHOLE,
        metrics=_gets("failed"),
        note="a call waits for `timeout_s`; after three in a row none is made, and a ping tries beside the requests",
    ),
    Fault(
        "forged-state",
        "has a value that no proxy has sealed",
        records=_WHOLE,
        metrics=_gets("refused"),
        note="log line `shared_state_refused`",
    ),
)

REPLICAS: Final = (
    Fault(
        "killed-replica",
        "is killed while it judges, and there is another one",
        records=_WHOLE,
        metrics=('guard_replica_calls_total{guard="openai_moderation",replica="URL",result="unknown"}',),
        note="the other one judges its checks; it is used again as soon as it is back",
    ),
    Fault(
        "stopped-replica",
        "hangs, and there is another one",
        records=_WHOLE,
        metrics=('guard_replica_ejections_total{guard="openai_moderation",replica="URL"}',),
        note="the other one judges its checks, after three times `check_every_s`",
    ),
    _unjudged("no-replica", "is gone, and there is no other one", "when one is back, texts pass again"),
)

_STORE_FAILS: Final = ('audit_failures_total{sink="store"}',)
STORE: Final = (
    Fault("locked", "is locked for a second", records=_WHOLE, note="the records wait"),
    Fault(
        "full",
        "is on a full disk",
        records=(),
        metrics=_STORE_FAILS,
        note="the next records are stored when there is space",
    ),
    Fault("gone", "is deleted", records=(), metrics=_STORE_FAILS, note="until it is back, or the proxy is restarted"),
    Fault(
        "postgres",
        "in PostgreSQL is shut down",
        records=(),
        metrics=_STORE_FAILS,
        note="the next records are stored when it is back",
    ),
    Fault(
        "no-permission",
        "may not be written by the proxy's user, at the start",
        0,
        end="closed",
        records=(),
        note="the proxy ends with the status 1 and names the file or folder",
    ),
    Fault("required-locked", "is locked for a second, with `audit.required`", records=_WHOLE, note="the answer waits"),
    Fault(
        "required-full",
        "is on a full disk, with `audit.required`",
        503,
        "audit_unavailable",
        records=(),
        metrics=(*_STORE_FAILS, *_failure("audit_unavailable")),
    ),
    Fault(
        "required-gone",
        "is deleted, with `audit.required`",
        503,
        "audit_unavailable",
        records=(),
        metrics=(*_STORE_FAILS, *_failure("audit_unavailable")),
    ),
)

PROCESS: Final = (
    Fault(
        "descriptors",
        "runs out of file descriptors",
        0,
        end="closed",
        records=(),
        note="those who are connected are served; it serves all again when there are descriptors",
    ),
    Fault(
        "connections",
        "has `server.max_connections` clients",
        503,
        end="closed",
        records=(),
        metrics=_failure("too_many_connections"),
    ),
    Fault("log", "cannot write its log", records=_WHOLE),
    Fault("clock", "has its clock set ten years on, and back", records=_WHOLE, note="no time-out depends on the clock"),
    Fault(
        "half-file",
        "finds its configuration half written",
        records=_WHOLE,
        note="the old policies stay in force; log line `reload_refused`",
    ),
    Fault("stop", "gets SIGTERM while it streams", records=_WHOLE, stream=True, note="within `server.grace_s`"),
    Fault(
        "stop-late",
        "gets SIGTERM, and a stream takes longer than `server.grace_s`",
        200,
        "shutting_down",
        "error event",
        _RECORDED_INCOMPLETE,
        stream=True,
    ),
    Fault(
        "stop-silent", "gets SIGTERM, and an upstream has not answered within `server.grace_s`", 503, "shutting_down"
    ),
    Fault(
        "worker",
        "is one of several workers, and is killed",
        0,
        end="closed",
        records=(),
        note="the other workers go on, and a new one takes its place when it can judge",
    ),
    Fault(
        "forks",
        "is one of several workers, and the process from which they fork is killed",
        records=_WHOLE,
        note="the workers answer what they have begun, and new ones take their places",
    ),
    Fault(
        "parent",
        "is one of several workers, and their parent is killed",
        records=_WHOLE,
        note="the workers answer what they have begun within `server.grace_s`, and leave the port",
    ),
    Fault(
        "reader",
        "reads a long text in a process of its own, which is killed",
        503,
        _GUARD_CODE,
        records=_NOT_JUDGED,
        metrics=_GUARD_ERROR,
        note="the next long text starts another one",
    ),
    Fault(
        "reading",
        "reads a long text in a process of its own, which takes longer than `guard.timeout_s`",
        413,
        "request_too_large",
        records=_NOT_JUDGED,
        metrics=('guard_refused_total{reason="too_long"}', *_failure("request_too_large")),
        note="the process is ended; other long texts are read meanwhile",
    ),
    Fault(
        "stop-start",
        "gets SIGTERM or SIGINT while it starts",
        0,
        end="closed",
        records=(),
        note="at once, also as the first process of a container: a model that still loads is not waited for",
    ),
    Fault(
        "engine-start",
        "has several workers, the process that runs their guard's model cannot load it again, and a worker starts",
        503,
        "not_ready",
        records=(),
        metrics=_failure("not_ready"),
        note="the worker waits, and the others answer `guard_unavailable`, until the model can be loaded",
    ),
    Fault(
        "engine",
        "has several workers, and the process that runs their guard's model is killed",
        503,
        _GUARD_CODE,
        records=_NOT_JUDGED,
        metrics=(*_GUARD_ERROR, "guard_engine_starts_total"),
        note="it is started again; until then every check fails at once",
    ),
)

MEMORY: Final = (
    _lost(
        "errors:comments",
        "comments without end before the first text, and blocks are errors",
        504,
        "timeout",
        "at `upstream.timeouts.answer_s`",
        stream=True,
    ),
    _refused("held:endless-stream", "text without end, held to its end (`hold_all`)"),
    _refused("window:endless-stream", "text without end, judged as it comes"),
    _cut("monitored:comments", "comments without end, only monitored", "timeout", records=("user pass",)),
    _lost("whole:endless-body", "a whole reply of 5 GB", 502, "unreadable"),
    Fault(
        "monitored:endless-stream",
        "a client that does not read its stream",
        0,
        end="closed",
        records=_RECORDED_INCOMPLETE,
        metrics=_failure("answer_unread"),
        note="after `server.write_timeout_s`",
    ),
    Fault("unfinished", "sixty clients that send half of their headers or of their body", 0, end="closed", records=()),
)

PAGE: Final = (
    ("The upstream", "The upstream …", UPSTREAM),
    ("The client", "The client …", CLIENT),
    ("The guard's service", "The guard's service …", GUARD),
    ("A guard in the proxy's process", "The guard …", LOCAL_GUARD),
    ("Replicas of the guard", "A replica …", REPLICAS),
    ("The shared state", "The server of `shared_state` …", SHARED),
    ("The audit store", "The store …", STORE),
    ("The proxy's process", "The proxy …", PROCESS),
    ("Memory", "In each case the memory of the process grows by less than 100 MB. What comes without end:", MEMORY),
)
