"""What several processes know together, from the settings: in Redis, if `shared_state` is configured."""

import asyncio
import json
import ssl
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import blake2b
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from guardproxy.app.guards import location
from guardproxy.app.kinds import is_remote
from guardproxy.checkapi import Account
from guardproxy.durations import duration_s
from guardproxy.engine.model_files import weights_of
from guardproxy.errors import ConfigError
from guardproxy.guards.replicas import ReplicaGuard
from guardproxy.ports import Guard, StateKind
from guardproxy.settings import GuardSettings, Settings, SharedStateSettings

if TYPE_CHECKING:
    from guardproxy.sharing import RedisState

# Options of a guard on which no verdict depends: when, where and by whom it is computed, and what is made of it.
_BESIDE: Final = frozenset(
    {
        "calibration",
        "device",
        "max_batch_tokens",
        "max_wait_s",
        "replicas",
        "service",
        "threads",
        "timeout_s",
    }
)


def open_state(settings: Settings) -> "RedisState | None":
    """The state of the settings, None if each process knows its own. Raises ConfigError if the extra is missing."""
    shared = settings.shared_state
    if shared is None:
        return None
    if find_spec("redis") is None:
        raise ConfigError("shared_state: needs the extra `redis`; run `pip install 'guardproxy[redis]'`")
    from guardproxy.sharing import RedisState, Sealer, StateOptions  # noqa: PLC0415 - it imports the client

    keep_s: dict[StateKind, int] = {"verdict": int(duration_s(shared.keep_verdicts))}
    of_replies: tuple[StateKind, ...] = ("passed", "giver", "withheld")
    keep_s |= dict.fromkeys(of_replies, int(duration_s(shared.keep_replies)))
    options = StateOptions(shared.url, shared.timeout_s, keep_s, tls_options(shared))
    return RedisState(options, Sealer(shared.secret or "", shared.namespace))


def check_state(settings: Settings) -> None:
    """Try the state once, before anything is served. A server that is down is told in the log.

    Raises ConfigError if it refuses the user or the password, if its certificate is not accepted, or as `open_state`.
    """
    state = None if settings.unset else open_state(settings)
    if state is None:
        return

    async def check() -> None:
        try:
            await state.check(settings.name)
        finally:
            await state.close()

    asyncio.run(check())


def guard_id(settings: Settings, account: Account, guards: Sequence[Guard], data_dir: str | None) -> bytes | None:
    """A digest of everything on which the verdicts of the guard depend: equal for guards that give equal verdicts.

    None as long as no replica of one of the `guards` has said what it is: it may be down. All options count but those
    that are known to make no difference: one that is counted in vain costs time, one that is left out would cost a
    verdict.
    """
    described = [member.guard for member in settings.members.values()] or [settings.guard]
    pairs = zip(guards, described, strict=True)
    identities = [one.identity for one, its in pairs if is_remote(its) and isinstance(one, ReplicaGuard)]
    if None in identities:
        return None
    content = [
        account.version,
        account.short,
        [_options(one) for one in (settings.guard, *described)],
        [weights_of(location(one.model, data_dir)) for one in described],
        identities,
    ]
    text = json.dumps(content, sort_keys=True, default=sorted)
    return blake2b(text.encode(), digest_size=32).digest()


def _options(guard: GuardSettings) -> dict[str, Any]:
    """What counts of a guard's options; servers that know a model by its name may have other weights each."""
    options = {key: value for key, value in asdict(guard).items() if key not in _BESIDE}
    options["service"] = None if guard.service is None else guard.service.url
    options["servers"] = guard.replicas.urls if guard.runner == "openai" and guard.replicas is not None else ()
    return options


def tls_options(shared: SharedStateSettings) -> dict[str, Any]:
    """The options of the connection to the server by redis-py's names; none if it speaks no TLS."""
    if not shared.url.startswith("rediss:"):
        return {}
    tls = shared.tls
    return {
        "ssl_cert_reqs": ssl.CERT_REQUIRED if tls.verify else ssl.CERT_NONE,
        "ssl_check_hostname": tls.verify,
        "ssl_ca_certs": tls.ca,
        "ssl_certfile": tls.cert,
        "ssl_keyfile": tls.key,
    }
