"""The audit store of a process: its sinks, and the tasks that tend the store beside the requests."""

import asyncio
import time
from collections.abc import Mapping

import structlog

from guardproxy import sinks
from guardproxy.durations import duration_s
from guardproxy.observe import Metrics
from guardproxy.pipeline import Exclusions
from guardproxy.ports import Sink
from guardproxy.registry import load
from guardproxy.settings import Settings
from guardproxy.sinks.database import DATABASES, AuditStore, Keep, StoreKeys, default_store_url

_RETAIN_S = 3600.0
_FOLLOW_S = 2.0

_log = structlog.get_logger("guardproxy.audit")


def store_address(settings: Settings, data_dir: str | None) -> str:
    """Return the address of the store, or another value of `audit.store` as it is.

    Raises ConfigError if a variable that it names is not set.
    """
    settings.require("audit", "store")
    return default_store_url(data_dir) if settings.audit.store == "embedded" else settings.audit.store


def open_sinks(settings: Settings, data_dir: str | None) -> Mapping[str, Sink]:
    """Return the sinks that the settings name, by their names in metrics and logs. Raises ConfigError."""
    opened: dict[str, Sink] = {}
    store = store_address(settings, data_dir)
    if "://" in store:
        kind = store.partition("://")[0]
        options = (store, store_keys(settings)) if kind in DATABASES else (store,)
        opened["store"] = load(kind, sinks.REGISTRY, "store")(*options)
    elif store != "none":
        opened["store"] = load(store, sinks.REGISTRY, "sink")()
    if settings.audit.log:
        opened["log"] = load("log", sinks.REGISTRY, "sink")()
    return opened


def store_keys(settings: Settings) -> StoreKeys:
    """Return the keys of the store, less those whose variable is not set.

    Who writes into the store requires `audit.chain_key` first; what is encrypted with another key cannot be read.
    """
    encrypt = settings.audit.encrypt or ()
    return StoreKeys(settings.audit.chain_key, (encrypt,) if isinstance(encrypt, str) else encrypt)


def keep_of(settings: Settings) -> Keep | None:
    """Return for how long records are kept; None if all are kept for ever."""
    keep = settings.audit.keep
    if keep is None:
        return None
    blocked, passed, text = (
        None if duration is None else duration_s(duration) for duration in (keep.blocked, keep.passed, keep.text)
    )
    return Keep(blocked, passed, text)


async def retain(store: AuditStore, keep: Keep, metrics: Metrics, *, every_s: float = _RETAIN_S) -> None:
    """Erase what `keep` keeps no longer, now and every `every_s` seconds, until the task is cancelled.

    A failure is logged and counted; the next turn tries again.
    """
    while True:
        try:
            erased = await store.retain(keep, time.time())
        except Exception as error:  # noqa: BLE001 - whatever fails here, later turns must take place
            metrics.retention_failed()
            _log.error("audit_retention_failed", error=f"{type(error).__name__}: {error}", again_in_s=every_s)
        else:
            metrics.retention(erased.records, erased.texts)
            if erased.records or erased.texts:
                _log.info("audit_retention", records=erased.records, texts=erased.texts)
        await asyncio.sleep(every_s)


async def follow_exclusions(store: AuditStore, exclusions: Exclusions, *, every_s: float = _FOLLOW_S) -> None:
    """Put the exclusions of the store in force every `every_s` seconds, until the task is cancelled.

    If the store cannot be read, those that were read last stay in force until they end. The first failure in a row is
    logged.
    """
    failing = False
    while True:
        try:
            exclusions.use("store", await store.exclusions(time.time()))
        except Exception as error:  # noqa: BLE001 - whatever fails here, later turns must take place
            if not failing:
                _log.error("audit_exclusions_unreadable", error=f"{type(error).__name__}: {error}", again_in_s=every_s)
            failing = True
        else:
            failing = False
        await asyncio.sleep(every_s)
