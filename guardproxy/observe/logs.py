"""Logging with structlog: one JSON object per line on standard error, or a readable format on a terminal."""

import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from guardproxy.errors import ConfigError
from guardproxy.observe.masking import TextRule, mask_credentials, mask_emails, mask_personal_data
from guardproxy.observe.records import NOT_STORED

# Identifiers look as random as keys do, and their digits like phone numbers, so under these names only credentials of a
# known format and e-mail addresses are masked.
_IDENTIFIERS = frozenset(
    {
        *(
            "id",
            "request_id",
            "record",
            "client",
            "policy",
            "policy_version",
            "version",
            "in_force",
            "taxonomy",
            "hash",
        ),
        "timestamp",
    }
)
_SECRET_NAME = re.compile(
    r"(?:\A|[-_])(?:authorization|cookie|passw(?:or)?d|secret|token|api[-_]?key)s?\Z", re.IGNORECASE
)
# The lines that may quote a client's text, and the segments of the protocols' paths.
_REQUEST_EVENTS = frozenset({"request", "request_failed", "request_broke", "stream_unreadable", "upstream_retry"})
_SEGMENT = re.compile(r"[^/:]+")
_API_SEGMENTS = frozenset(
    {
        *("anthropic", "api", "chat", "completions", "count_tokens", "countTokens", "deployments", "embeddings"),
        *("generate", "generateContent", "messages", "models", "moderations", "openai", "responses", "show"),
        *("streamGenerateContent", "tags", "v1", "v1alpha", "v1beta", "version"),
    }
)
_MAX_DEPTH = 6
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
# Bidirectional controls, which would make a terminal show characters in another order.
_CONTROL |= {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
# aiosqlite logs each statement with its parameters, which hold the text of records; httpx logs a line for each request,
# which would be a line for every check.
_CHATTY_LOGGERS = ("aiosqlite", "httpcore", "httpx")
_SERVER_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")


@lru_cache(maxsize=1024)
def _names_a_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _masked(value: Any, depth: int, *, guess: bool = True) -> Any:
    if isinstance(value, str):
        return _masked_text(value, guess=guess)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping) and depth < _MAX_DEPTH:
        return {str(name): _masked_field(str(name), item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and depth < _MAX_DEPTH:
        return [_masked(item, depth + 1, guess=guess) for item in value]
    if isinstance(value, bytes | bytearray):
        return _masked_text(bytes(value).decode("utf-8", "replace"), guess=guess)
    return _masked_text(str(value), guess=guess)


def _masked_text(text: str, *, guess: bool) -> str:
    """Mask a text. IP addresses stay: those in the log are the upstream's and the server's own."""
    return mask_personal_data(text, addresses=False) if guess else mask_emails(mask_credentials(text, guess=False))


def _masked_field(name: str, value: Any, depth: int) -> Any:
    # A number is never a secret: `tokens: 12` counts tokens.
    if _names_a_secret(name[-40:]) and not isinstance(value, bool | int | float | None):
        return "[secret]"
    return _masked(value, depth, guess=name not in _IDENTIFIERS)


def _withheld(name: str, value: Any) -> Any:
    """A field of a line about a request, without the client's text that it may quote."""
    if name == "path" and isinstance(value, str):
        return _SEGMENT.sub(lambda match: match.group() if match.group() in _API_SEGMENTS else "*", value)
    return NOT_STORED if name in {"error", "cause", "exception"} and value else value


def withhold_texts(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Remove a client's text from the lines about its request. This is a structlog processor."""
    if event.get("event") in _REQUEST_EVENTS:
        for name in event:
            event[name] = _withheld(name, event[name])
    return event


def mask_event(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Mask credentials and personal data at any depth of any field, and every field whose name stands for a credential.

    This is a structlog processor.
    """
    for name in event:
        if not name.startswith("_"):  # structlog's own fields
            event[name] = _masked_field(name, event[name], 0)
    return event


def _drop_color_message(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Remove uvicorn's second, coloured copy of its message."""
    event.pop("color_message", None)
    return event


def _escape_controls(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Escape control characters, so that a client's text cannot send commands to the terminal."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = value.translate(_CONTROL)
    return event


def configure_logging(level: str = "info", *, json: bool | None = None, text: TextRule = "redacted") -> bool:
    """Send the logs of structlog and of the standard library, including uvicorn's, and warnings, to standard error.

    Return whether they are JSON lines: `json` selects them; None selects them unless standard error is a terminal.
    `text` is the rule `audit.text`: with `hash` and `none` no line quotes a client's text. Start uvicorn with
    `log_config=None`, otherwise it configures its loggers again. Raises ConfigError for an unknown `level`.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ConfigError(f"unknown log level {level!r}: use debug, info, warning, error or critical")
    as_json = not sys.stderr.isatty() if json is None else json
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=_processors_of_event(as_json, withhold=text in ("hash", "none"))
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    # A library's warning would otherwise be two lines of plain text between the JSON lines.
    logging.captureWarnings(capture=True)
    for name in _SERVER_LOGGERS:
        server = logging.getLogger(name)
        server.handlers.clear()
        server.propagate = True
        server.setLevel(logging.NOTSET)
    for name in _CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    return as_json


def _processors_of_event(as_json: bool, *, withhold: bool) -> list[Processor]:
    """Return the processors that run once structlog and standard-library records have become the same kind of event."""
    # Exceptions become text before the masking, so that they are masked too. Local variables, which hold users' texts,
    # are not formatted.
    before: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        _drop_color_message,
        structlog.processors.format_exc_info,
        *([withhold_texts] if withhold else []),
        mask_event,
    ]
    if as_json:
        return [*before, structlog.processors.JSONRenderer(ensure_ascii=True)]
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    return [*before, _escape_controls, console]


@contextmanager
def request_context(request_id: str) -> Iterator[None]:
    """Add the request id to every log line inside this context, including lines of tasks started there."""
    with structlog.contextvars.bound_contextvars(request_id=request_id):
        yield
