"""The shape of upstreams and their groups in a configuration file; see `model` for its conventions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Interval, Len

from guardproxy.settings.model_policy import Count, Text
from guardproxy.settings.model_server import Seconds
from guardproxy.upstreams import RepeatAfter

Weight = Annotated[float, Interval(ge=0)]
Attempts = Annotated[int, Interval(ge=1, le=10)]


@dataclass(frozen=True, slots=True)
class TimeoutSettings:
    """How long the upstream may take."""

    connect_s: Seconds = 5.0
    """Seconds to connect."""
    first_byte_s: Seconds = 120.0
    """Seconds from the request to the first byte of the answer."""
    between_chunks_s: Seconds = 60.0
    """Seconds between two chunks of the answer."""
    answer_s: Seconds = 3600.0
    """Seconds from the request to the end of the answer."""


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """When the proxy itself repeats a request to the same upstream, unless it goes to a group."""

    attempts: Attempts = 3
    """Maximum number of attempts; 1 disables retries."""
    repeat_after: RepeatAfter = "unsent"
    """The last of these endings after which a request is repeated: `unsent`, no connection came about; `declined`, the
    upstream answered 429, 503 or 529; `failed`, it answered another 5xx than 504; `unknown`, it was silent, broke off
    or answered 504, so it may have acted on the request. Clients repeat what the proxy does not."""
    max_wait_s: Seconds = 20.0
    """Longest wait before the next attempt, in seconds; a longer Retry-After ends the attempts."""


@dataclass(frozen=True, slots=True)
class UpstreamTlsSettings:
    """How the upstream's certificate is checked, and the proxy's own."""

    verify: bool = True
    """Whether to check the upstream's certificate."""
    ca: Text | None = None
    """PEM file of trusted certificate authorities; without it, Mozilla's list (the package certifi) is trusted."""
    cert: Text | None = None
    """PEM file of the certificate by which the upstream knows the proxy."""
    key: Text | None = None
    """PEM file of the private key of `cert`, without a passphrase."""


@dataclass(frozen=True, slots=True)
class EjectSettings:
    """When a failing upstream is taken out of use: then one request at a time tries whether it is back."""

    failures: Count = 5
    """Calls in a row that must fail: no connection, silence, 5xx, or 429 without a Retry-After."""
    first_s: Seconds = 10.0
    """Seconds until the first trial; after each one that fails, twice as many."""
    longest_s: Seconds = 300.0
    """The most seconds between two trials, and of a pause for which the upstream asks with 429."""


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """An LLM service behind the proxy."""

    url: Text = "demo"
    """Base address, to which the client's path is appended; `demo` is a small chat model on this machine."""
    key: str | None = field(default=None, repr=False)
    """The upstream's own key, as ${env:NAME}, sent instead of the client's. Without it, the client's key is sent."""
    key_header: Text = "authorization"
    """The header that carries the key: as a bearer token in `authorization`, unchanged in any other."""
    client_key: bool | None = None
    """Whether the client's own key is sent if there is no `key`; one of several upstreams must say so."""
    strip_path: Text | None = None
    """A beginning of the client's path, such as /v1, that is left out if the upstream has none."""
    models: Mapping[str, Text] = field(default_factory=dict)
    """The upstream's names for the client's models, which may have * for any text; the first that matches counts."""
    timeouts: TimeoutSettings = TimeoutSettings()
    """How long the upstream may take."""
    retries: RetrySettings = RetrySettings()
    """When a request is repeated."""
    tls: UpstreamTlsSettings = UpstreamTlsSettings()
    """How the upstream's certificate is checked, and the proxy's own."""
    max_connections: Count = 256
    """Maximum number of connections to the upstream, per worker."""
    response_headers: tuple[Text, ...] = ()
    """Further headers that leave with judged answers whatever their text: names, with * for any text."""
    weight: Weight = 1.0
    """Of several: its share of the requests to a group; with 0, it is used only if the others are down or fail."""
    protocols: tuple[Text, ...] = ()
    """Of several: the protocols that it speaks, names of `wires`; others never go there. Without it, all of them."""
    eject: EjectSettings = EjectSettings()
    """Of several: when it is taken out of use while it fails."""


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """Upstreams that stand in for each other."""

    members: Annotated[tuple[Text, ...], Len(1)]
    """Names from `upstreams`."""
    attempts: Attempts = 3
    """Maximum number of members to which a request is sent, each once."""
    repeat_after: RepeatAfter = "failed"
    """The last of these endings after which a request goes to the next member: see `retries.repeat_after`."""
