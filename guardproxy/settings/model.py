"""The shape of a configuration file: one frozen dataclass per mapping, a text under every option that says what it is.

The defaults here are what an empty file means, except for the policies: those are in `defaults.yaml`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Interval, Len

from guardproxy.settings.model_policy import STRICT, Count, PolicySettings, Probability, RouteSettings, Text

Weight = Annotated[float, Interval(ge=0)]
Seconds = Annotated[float, Interval(gt=0, le=86_400)]


@dataclass(frozen=True, slots=True)
class Server:
    """Where the proxy listens."""

    __pydantic_config__ = STRICT

    host: Text = "127.0.0.1"
    """Address to listen on. 0.0.0.0 is every IPv4 address of the machine."""
    port: Annotated[int, Interval(ge=0, le=65_535)] = 8080
    """Port to listen on; 0 takes any free one."""
    workers: Annotated[int, Interval(ge=1, le=256)] = 1
    """Processes that answer requests."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the upstream may take."""

    __pydantic_config__ = STRICT

    connect_s: Seconds = 5.0
    """Seconds until the connection stands."""
    first_byte_s: Seconds = 120.0
    """Seconds from the request to the first byte of the answer."""
    between_chunks_s: Seconds = 60.0
    """Seconds between two chunks of the answer."""


@dataclass(frozen=True, slots=True)
class Retries:
    """When a request is sent to the upstream again."""

    __pydantic_config__ = STRICT

    attempts: Annotated[int, Interval(ge=1, le=10)] = 3
    """How often a request is sent at most; 1 is never again."""
    unsafe_methods: bool = False
    """Whether a request that the upstream may have acted on already is sent again, which can cost twice."""
    max_wait_s: Seconds = 20.0
    """The longest wait before the next attempt; a Retry-After beyond it ends the attempts."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """The LLM service that is guarded."""

    __pydantic_config__ = STRICT

    url: Text = "demo"
    """Base address, to which the client's path is appended; `demo` is a small chat model on this machine."""
    key: str | None = field(default=None, repr=False)
    """The upstream's own key, as ${env:NAME}, sent in place of the client's. Without it the client's key passes."""
    key_header: Text = "authorization"
    """The header that carries the key: as a bearer token in `authorization`, as it is in any other."""
    timeouts: Timeouts = Timeouts()
    """How long the upstream may take."""
    retries: Retries = Retries()
    """When a request is sent again."""
    verify: bool = True
    """Whether the upstream's TLS certificate is checked."""
    ca_file: Text | None = None
    """PEM file of the authorities to trust, where the system's own do not know the upstream."""
    max_connections: Count = 256
    """Connections to the upstream at most, per worker."""


@dataclass(frozen=True, slots=True)
class CascadeSettings:
    """A guard that is asked first, and another where the first is not sure."""

    __pydantic_config__ = STRICT

    cheap: Text
    """The guard that is asked first: `embedded`, or one of `guards`."""
    dear: Text
    """The guard that is asked where P(unsafe) of the first is between the bounds, and then decides."""
    low: Probability
    """Below it the first guard's word stands. `guardproxy calibrate --cascade` finds both bounds."""
    high: Probability
    """Above it the first guard's word stands."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """How a moderation service is reached."""

    __pydantic_config__ = STRICT

    key: Text = field(repr=False)
    """The service's key, as ${env:NAME}."""
    url: Text | None = None
    """Base address, where the service gives each customer one of its own; without it the service's public one."""
    attempts: Annotated[int, Interval(ge=1, le=10)] = 4
    """How often a call is made at most, where the service is too busy or fails."""
    concurrency: Count = 8
    """Calls that run at once, at most."""
    per_second: Annotated[float, Interval(gt=0)] | None = None
    """Calls that begin in a second, at most; without it as many as come."""


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """The model that judges."""

    __pydantic_config__ = STRICT

    family: Text = "classifier"
    """How the model is asked and understood: a built-in family, or `module:attribute`."""
    model: Text = "embedded"
    """`embedded` (ships with guardproxy), a Hugging Face id, a directory, or a GGUF file."""
    device: Text = "auto"
    """Where the model runs: `cpu`, `cuda`, `cuda:N`, or `auto`, a GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights; `auto` is bfloat16 on a GPU and float32 on a CPU."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the family."""
    taxonomy: Text | None = None
    """The categories to judge by, from `taxonomies`; without it the family's own."""
    timeout_s: Seconds = 30.0
    """Seconds that a check may take, waiting included, before the guard counts as failed."""
    max_wait_s: Seconds = 10.0
    """A check that would wait longer than this is refused at once, as overload."""
    max_batch_tokens: Count | None = None
    """Tokens judged in one forward pass at most; without it what suits the device."""
    threads: Annotated[int, Interval(ge=1, le=1024)] | None = None
    """CPU threads of the model; without it as many as PyTorch takes."""
    service: ServiceSettings | None = None
    """For the families that are moderation services: how it is reached. It has no model here."""
    all: Annotated[tuple[Text, ...], Len(1)] | None = None
    """Guards that are all asked, `embedded` or of `guards`; of each category the greatest probability counts."""
    mean: Mapping[str, tuple[Weight, ...]] | None = None
    """In place of the greatest a mean: by category, `unsafe` or "*", a weight for each guard of `all`."""
    cascade: CascadeSettings | None = None
    """A guard that is asked first, and another where the first is not sure."""


@dataclass(frozen=True, slots=True)
class CategorySettings:
    """One kind of harm."""

    __pydantic_config__ = STRICT

    id: Text
    """The name in policies, records and metrics: lower-case letters, digits and underscores."""
    name: str = ""
    """The name that the guard reads; with neither name nor description both are those of the family's own category."""
    description: str = ""
    """What belongs to it and what does not, for guards that read their policy from the prompt."""
    code: str = ""
    """What a generative guard prints for it, such as O3; without it the family numbers the categories."""
    examples: tuple[str, ...] = ()
    """Few-shot lines for guards that read their policy from the prompt."""


@dataclass(frozen=True, slots=True)
class TaxonomySettings:
    """Categories to judge by."""

    __pydantic_config__ = STRICT

    categories: Annotated[tuple[CategorySettings, ...], Len(1)]
    """The categories, in the order in which the guard reads them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is too large to be read; more is refused, never cut."""

    __pydantic_config__ = STRICT

    body_bytes: Count = 20_971_520
    """Bytes of a request body."""
    reply_bytes: Count = 20_971_520
    """Bytes of an upstream's reply."""
    characters: Count = 1_000_000
    """Characters of all texts of a conversation."""
    messages: Count = 10_000
    """Messages of a conversation."""


PASS_PATHS = (
    "GET /",
    "GET /v1/models",
    "GET /v1/models/*",
    "POST /v1/models/*:countTokens",
    "POST /v1/messages/count_tokens",
    "GET /v1beta/models",
    "GET /v1beta/models/*",
    "POST /v1beta/models/*:countTokens",
    "GET /api/tags",
    "POST /api/show",
    "GET /api/version",
    "GET /api/ps",
)


@dataclass(frozen=True, slots=True)
class Paths:
    """What becomes of requests by method and path; what no list and no wire names is refused."""

    __pydantic_config__ = STRICT

    allow: tuple[str, ...] = PASS_PATHS
    """Requests that pass unread because they carry no chat: `METHOD /path`, with * for any text in the path."""
    refuse: tuple[str, ...] = ()
    """Requests that are refused, also where a wire could read them."""


@dataclass(frozen=True, slots=True)
class Audit:
    """The record of every judged turn."""

    __pydantic_config__ = STRICT

    store: Text = field(default="embedded", repr=False)
    """`embedded` (SQLite in the data directory), a database address, `none`, or `module:attribute`."""
    text: Literal["full", "redacted", "hash", "none"] = "redacted"
    """What of the judged text is kept."""
    required: bool = False
    """Whether an answer waits until its record is stored, and is refused where that fails."""
    log: bool = True
    """Whether each record is also a log line."""


@dataclass(frozen=True, slots=True)
class Log:
    """What is logged, to standard error."""

    __pydantic_config__ = STRICT

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe level that is logged."""
    format: Literal["auto", "json", "console"] = "auto"
    """`json` lines, readable `console` lines, or console on a terminal and json elsewhere."""


@dataclass(frozen=True, slots=True)
class Document:
    """A guardproxy configuration."""

    __pydantic_config__ = STRICT

    version: Literal[1] = 1
    """The version of this format."""
    server: Server = Server()
    """Where the proxy listens."""
    upstream: Upstream = Upstream()
    """The LLM service that is guarded."""
    guard: GuardSettings = GuardSettings()
    """The model that judges."""
    guards: Mapping[str, GuardSettings] = field(default_factory=dict)
    """Guards by name, for `guard.all` and `guard.cascade`, each with the options of `guard`."""
    taxonomies: Mapping[str, TaxonomySettings] = field(default_factory=dict)
    """Categories of your own, by name."""
    wires: tuple[str, ...] | None = None
    """Chat protocols to read, built-in names or `module:attribute`; without it every built-in one."""
    limits: Limits = Limits()
    """What is too large."""
    paths: Paths = Paths()
    """What becomes of requests that carry no chat."""
    policies: Mapping[str, PolicySettings] = field(default_factory=dict)
    """Policies by name; `default` is the one where no route matches. Without it, the built-in one."""
    routes: tuple[RouteSettings, ...] = ()
    """Which requests each policy is for."""
    audit: Audit = Audit()
    """The record of every judged turn."""
    log: Log = Log()
    """What is logged."""
