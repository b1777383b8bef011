"""The alerts of a process: its receivers, and where their records come from."""

import asyncio
import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

import structlog

from guardproxy.alerting import AlertCondition
from guardproxy.app.audit import store_address, store_keys
from guardproxy.errors import AuditUnavailable, ConfigError
from guardproxy.observe import Metrics
from guardproxy.observe.alerts import (
    AlertDelivery,
    AlertFollower,
    AlertReceiver,
    MemoryAlerts,
    SyslogReceiver,
    WebhookReceiver,
)
from guardproxy.ports import Sink
from guardproxy.settings import AlertSettings, ReceiverSettings, Settings
from guardproxy.sinks.database import DATABASES, FollowedStore
from guardproxy.web.transport import tls_context

_SYSLOG_PORT = 6514

log = structlog.get_logger("guardproxy.alerts")


def receiver_of(name: str, settings: ReceiverSettings) -> AlertReceiver:
    """Open a receiver. Raises ConfigError if a file of its TLS cannot be used."""
    tls = settings.tls
    try:
        context = tls_context(authorities=tls.ca, cert=tls.cert, key=tls.key)
    except OSError as error:
        where = f"alerts.receivers.{name}.tls"
        raise ConfigError(f"{where}: {error}; guardproxy validate FILE says which file it is") from error
    if settings.webhook is not None:
        form = settings.format if settings.format in ("slack", "ocsf") else "json"
        return WebhookReceiver(
            settings.webhook,
            secret=settings.secret,
            form=form,
            text=settings.text,
            timeout_s=settings.timeout_s,
            tls=context,
        )
    parts = urlsplit(f"//{settings.syslog}")
    return SyslogReceiver(
        parts.hostname or "",
        parts.port or _SYSLOG_PORT,
        form="ocsf" if settings.format == "ocsf" else "cef",
        text=settings.text,
        timeout_s=settings.timeout_s,
        tls=context,
    )


class ProcessAlerts:
    """What tells the receivers of the settings.

    With an audit store in a database, alerts are about what it holds, whichever process wrote it, and one process tells
    each receiver. Otherwise they are about the records of this process: `sinks` are to get these.
    """

    def __init__(self, settings: Settings, data_dir: str | None, metrics: Metrics) -> None:
        alerts = settings.alerts or AlertSettings({}, {})
        self._names = tuple(alerts.receivers)
        address = store_address(settings, data_dir) if self._names else ""
        self.sinks: Mapping[str, Sink] = {}
        self._store: FollowedStore | None = None
        self._followers: list[AlertFollower] = []
        self._tasks: list[asyncio.Task[None]] = []
        if address.partition("://")[0] in DATABASES:
            self._store = FollowedStore(address, keys=store_keys(settings))
            holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
            for name, receiver in alerts.receivers.items():
                delivery, conditions = _delivery(name, receiver, metrics), _conditions(alerts, receiver)
                self._followers.append(AlertFollower(delivery, conditions, self._store, receiver.queue, holder=holder))
        else:
            self.sinks = {
                f"alerts {name}": MemoryAlerts(
                    _delivery(name, receiver, metrics), _conditions(alerts, receiver), receiver.queue
                )
                for name, receiver in alerts.receivers.items()
            }

    async def begin(self) -> None:
        """Begin to tell the receivers. To be called before there are records, and when the store is open.

        Raises AuditUnavailable if the store cannot be written.
        """
        if self.sinks:
            log.warning(
                "alerts_from_memory",
                receivers=self._names,
                why="the audit store is no database: what waits when the process ends is lost, each worker counts for "
                "itself",
            )
        if self._store is None:
            return
        try:
            await self._store.begin(self._names)
        except ConfigError:
            raise
        except Exception as error:
            raise AuditUnavailable(f"alerts: the audit store cannot be written: {error}") from error
        self._tasks += [asyncio.create_task(follower.run()) for follower in self._followers]

    async def close(self) -> None:
        """Stop, and note how far each receiver has been told."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for follower in self._followers:
            await follower.close()
        if self._store is not None:
            with suppress(Exception):
                await self._store.close()


def _delivery(name: str, settings: ReceiverSettings, metrics: Metrics) -> AlertDelivery:
    return AlertDelivery(name, receiver_of(name, settings), metrics.alerts, every_s=settings.every_s)


def _conditions(alerts: AlertSettings, receiver: ReceiverSettings) -> Mapping[str, AlertCondition]:
    """The conditions that a receiver is told of."""
    wanted = receiver.conditions
    return {name: one for name, one in alerts.conditions.items() if wanted is None or name in wanted}
