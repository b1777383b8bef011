"""The replicas of a guard, from its settings."""

from guardproxy.errors import ConfigError
from guardproxy.guards.replica_http import UNIX, HttpLink
from guardproxy.guards.replicas import AskOptions, ReplicaGuard
from guardproxy.settings import GuardSettings, ReplicaSettings
from guardproxy.types import Taxonomy
from guardproxy.upstreams import Ejection
from guardproxy.web.transport import aiohttp_transport, never_sent, tls_context


def replica_guard(name: str, guard: GuardSettings, taxonomy: Taxonomy, floor: float) -> ReplicaGuard:
    """A guard of the replicas in `guard.replicas`. Raises ConfigError for an unusable certificate or address."""
    replicas = guard.replicas
    if replicas is None:
        raise ConfigError(f"guard {name!r}: the runner http needs replicas")
    eject = replicas.eject
    options = AskOptions(
        timeout_s=guard.timeout_s,
        attempts=replicas.attempts,
        hedge=replicas.hedge,
        check_every_s=replicas.check_every_s,
        ejection=Ejection(eject.failures, eject.first_s, eject.longest_s),
    )
    return ReplicaGuard(name, taxonomy, [_link(url, replicas) for url in replicas.urls], options, floor=floor)


def _link(url: str, replicas: ReplicaSettings) -> HttpLink:
    tls, context, uds = replicas.tls, None, None
    if url.startswith(UNIX):
        uds = url.removeprefix(UNIX)
    elif url.startswith("https:"):
        try:
            context = tls_context(verify=tls.verify, authorities=tls.ca, cert=tls.cert, key=tls.key)
        except OSError as error:
            raise ConfigError(f"guard.replicas.tls: {error}; guardproxy validate FILE says which file it is") from error
    transport = aiohttp_transport(replicas.max_connections, context, trust_env=False, uds=uds)
    return HttpLink(url, transport, never_sent, key=replicas.key, connect_s=replicas.connect_s)
