"""The replicas of a guard, from its settings."""

import ssl

from guardproxy.engine.tokenizer_files import load_tokenizer
from guardproxy.errors import ConfigError
from guardproxy.guards.completions.api import CompletionsApi
from guardproxy.guards.completions.chat import ChatLink, ChatOptions
from guardproxy.guards.completions.link import CompletionsLink, CompletionsOptions, ModelTokenizer
from guardproxy.guards.http_calls import HttpCalls
from guardproxy.guards.replica_http import UNIX, HttpLink, base_of
from guardproxy.guards.replicas import AskOptions, ReplicaGuard
from guardproxy.ports import Family
from guardproxy.questions import LabelFamily
from guardproxy.settings import CompletionsSettings, GuardSettings, ReplicaSettings
from guardproxy.types import Taxonomy
from guardproxy.upstreams import Ejection
from guardproxy.web.transport import aiohttp_transport, never_sent, tls_context

# A server of models is asked for a check in many calls: this many of them run at once for one worker.
_CALLS = 32
_VERSION = "/v1"


def replica_guard(name: str, guard: GuardSettings, taxonomy: Taxonomy, floor: float) -> ReplicaGuard:
    """A guard of the replicas in `guard.replicas`. Raises ConfigError for an unusable certificate or address."""
    replicas = _replicas(name, guard)

    def link(url: str) -> HttpLink:
        context, _ = _network(url, replicas)
        most, connect_s = replicas.max_connections, replicas.connect_s
        return HttpLink(url, context, key=replicas.key, max_connections=most, connect_s=connect_s)

    links = [link(url) for url in replicas.urls]
    return ReplicaGuard(name, taxonomy, links, _options(guard, replicas), floor=floor)


def completions_guard(name: str, guard: GuardSettings, family: Family, floor: float) -> ReplicaGuard:
    """A guard whose model runs on the servers in `guard.replicas`. Raises ConfigError as `replica_guard`."""
    replicas, completions = _replicas(name, guard), guard.completions or CompletionsSettings()
    tokenizer = ModelTokenizer(lambda: load_tokenizer(completions.tokenizer or guard.model))
    options = CompletionsOptions(
        uncertainty=completions.uncertainty,
        context=completions.context_tokens,
        calls=min(_CALLS, replicas.max_connections),
        floor=floor,
        images="image" in guard.reads,
    )

    def link(url: str) -> CompletionsLink:
        calls, prefix = _model_server(url, replicas)
        api = CompletionsApi(calls, guard.model, top=completions.logprobs, prefix=prefix)
        return CompletionsLink(url, name, family, api=api, tokenizer=tokenizer, options=options)

    links = [link(url) for url in replicas.urls]
    # Finding out what a server can do takes some calls, as long as a check may take.
    asking = _options(guard, replicas, start_s=guard.timeout_s)
    return ReplicaGuard(name, family.taxonomy, links, asking, floor=floor)


def chat_guard(name: str, guard: GuardSettings, family: LabelFamily, floor: float) -> ReplicaGuard:
    """A guard whose model answers in words on the servers in `guard.replicas`. Raises ConfigError as the others."""
    replicas, completions = _replicas(name, guard), guard.completions or CompletionsSettings()
    options = ChatOptions(
        calls=min(_CALLS, replicas.max_connections), top=completions.logprobs, uncertainty=completions.uncertainty
    )

    def link(url: str) -> ChatLink:
        calls, prefix = _model_server(url, replicas)
        return ChatLink(url, name, family, calls=calls, model=guard.model, prefix=prefix, options=options)

    links = [link(url) for url in replicas.urls]
    return ReplicaGuard(name, family.taxonomy, links, _options(guard, replicas), floor=floor)


def _model_server(url: str, replicas: ReplicaSettings) -> tuple[HttpCalls, str]:
    """The calls of a server of models, and the path of its API below its address."""
    base = base_of(url)
    context, uds = _network(url, replicas)
    transport = aiohttp_transport(replicas.max_connections, context, trust_env=False, uds=uds)
    calls = HttpCalls(base, transport, never_sent, key=replicas.key, connect_s=replicas.connect_s)
    return calls, "" if base.path.rstrip("/").endswith(_VERSION) else _VERSION


def _replicas(name: str, guard: GuardSettings) -> ReplicaSettings:
    if guard.replicas is None:
        raise ConfigError(f"guard {name!r}: the runner {guard.runner} needs replicas")
    return guard.replicas


def _options(guard: GuardSettings, replicas: ReplicaSettings, start_s: float = 10.0) -> AskOptions:
    eject = replicas.eject
    return AskOptions(
        timeout_s=guard.timeout_s,
        attempts=replicas.attempts,
        hedge=replicas.hedge,
        check_every_s=replicas.check_every_s,
        start_s=start_s,
        ejection=Ejection(eject.failures, eject.first_s, eject.longest_s),
    )


def _network(url: str, replicas: ReplicaSettings) -> tuple[ssl.SSLContext | None, str | None]:
    """How certificates are checked, None without TLS; and the path of the socket, None for another address."""
    tls = replicas.tls
    if url.startswith(UNIX):
        return None, url.removeprefix(UNIX)
    if not url.startswith("https:"):
        return None, None
    try:
        return tls_context(verify=tls.verify, authorities=tls.ca, cert=tls.cert, key=tls.key), None
    except OSError as error:
        raise ConfigError(f"guard.replicas.tls: {error}; guardproxy validate FILE says which file it is") from error
