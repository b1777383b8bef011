"""Logging: structlog, one JSON object per line on standard error, or a readable form on a terminal."""

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
from guardproxy.observe.redaction import credentials

# Identifiers look as random as keys do; under these names only what has a known form of a credential is masked.
_IDENTIFIERS = frozenset({"id", "request_id", "record", "client", "policy_version", "taxonomy", "hash", "timestamp"})
_SECRET_NAME = re.compile(
    r"(?:\A|[-_])(?:authorization|cookie|passw(?:or)?d|secret|token|api[-_]?key)s?\Z", re.IGNORECASE
)
_DEEPEST = 6
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
# What a terminal would show in another order than it is written.
_CONTROL |= {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
# They log each statement with its parameters, and each request: a record's text, and a line for every check.
_CHATTY_LOGGERS = ("aiosqlite", "httpcore", "httpx")
_SERVER_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")


@lru_cache(maxsize=1024)
def _names_a_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _masked(value: Any, depth: int, *, guess: bool = True) -> Any:
    if isinstance(value, str):
        return credentials(value, guess=guess)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping) and depth < _DEEPEST:
        return {str(name): _field(str(name), item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and depth < _DEEPEST:
        return [_masked(item, depth + 1, guess=guess) for item in value]
    if isinstance(value, bytes | bytearray):
        return credentials(bytes(value).decode("utf-8", "replace"), guess=guess)
    return credentials(str(value), guess=guess)


def _field(name: str, value: Any, depth: int) -> Any:
    # A number of tokens is no token.
    if _names_a_secret(name[-40:]) and not isinstance(value, bool | int | float | None):
        return "[secret]"
    return _masked(value, depth, guess=name not in _IDENTIFIERS)


def mask_credentials(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A structlog processor: credentials in any field, at any depth, are masked, and so are fields named for one."""
    for name in event:
        if not name.startswith("_"):  # structlog's own: the stdlib record and its marks
            event[name] = _field(name, event[name], 0)
    return event


def _plain(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """uvicorn gives its messages a second time, with colours."""
    event.pop("color_message", None)
    return event


def _printable(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Control characters of a client's text must not reach the terminal, nor uvicorn's second, coloured wording."""
    event.pop("color_message", None)
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = value.translate(_CONTROL)
    return event


def configure_logging(level: str = "info", *, json: bool | None = None) -> None:
    """Send the logs of structlog and of the standard library, uvicorn's included, to standard error.

    `json` says whether as JSON lines; None means unless standard error is a terminal. uvicorn must be started with
    `log_config=None`, or it takes its loggers back. Raises ConfigError for an unknown `level`.
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
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_ending(as_json)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
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


def _ending(as_json: bool) -> list[Processor]:
    """The processors after a record of either kind of logger has become one event."""
    # The exception is text before credentials are masked. No locals: they hold what people wrote.
    before: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        _plain,
        structlog.processors.format_exc_info,
        mask_credentials,
    ]
    if as_json:
        return [*before, structlog.processors.JSONRenderer(ensure_ascii=True)]
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    return [*before, _printable, console]


@contextmanager
def request_context(request_id: str) -> Iterator[None]:
    """Every log line inside this context, also of tasks started there, carries the request id."""
    with structlog.contextvars.bound_contextvars(request_id=request_id):
        yield
