"""The upstreams of the proxy, from its settings."""

from collections.abc import Callable

from guardproxy import wires
from guardproxy.errors import ConfigError
from guardproxy.observe import UpstreamMetrics
from guardproxy.registry import load
from guardproxy.settings import Settings, UpstreamSettings
from guardproxy.upstreams import Ejection
from guardproxy.web.failover import UpstreamGroup, Upstreams
from guardproxy.web.transport import tls_context
from guardproxy.web.upstream import Retries, Upstream


def upstreams_of(settings: Settings, metrics: UpstreamMetrics, observed: Callable[[Upstream], Upstream]) -> Upstreams:
    """Every upstream, as `observed` returns it, and group. Raises ConfigError for an unusable certificate."""
    by_name = settings.by_name
    # A header that carries the key of one upstream must not reach another one.
    private = {upstream.key_header.lower().encode("ascii") for upstream in by_name.values() if upstream.key}
    upstreams = [
        observed(_upstream(name, upstream, private=private, cookies=len(by_name) < 2))
        for name, upstream in by_name.items()
    ]
    groups = {
        name: UpstreamGroup(group.members, group.attempts, group.repeat_after)
        for name, group in settings.upstream_groups.items()
    }
    return Upstreams(upstreams, groups, metrics=metrics)


def _upstream(name: str, upstream: UpstreamSettings, *, private: set[bytes], cookies: bool) -> Upstream:
    tls, retries, timeouts, eject = upstream.tls, upstream.retries, upstream.timeouts, upstream.eject
    try:
        context = tls_context(verify=tls.verify, authorities=tls.ca, cert=tls.cert, key=tls.key)
    except OSError as error:
        raise ConfigError(f"upstream {name}, tls: {error}; guardproxy validate FILE says which file it is") from error
    return Upstream(
        upstream.url,
        name=name,
        key=upstream.key,
        key_header=upstream.key_header,
        client_key=upstream.client_key is not False,
        private=private,
        cookies=cookies,
        strip_path=upstream.strip_path or "",
        models=tuple(upstream.models.items()),
        protocols=[load(protocol, wires.REGISTRY, "wire").name for protocol in upstream.protocols],
        response_headers=upstream.response_headers,
        connect_s=timeouts.connect_s,
        first_byte_s=timeouts.first_byte_s,
        between_chunks_s=timeouts.between_chunks_s,
        answer_s=timeouts.answer_s,
        retries=Retries(retries.attempts, retries.repeat_after, retries.max_wait_s),
        weight=upstream.weight,
        ejection=Ejection(eject.failures, eject.first_s, eject.longest_s),
        max_connections=upstream.max_connections,
        tls=context,
    )
