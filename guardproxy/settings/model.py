"""The shape of a configuration file: one frozen dataclass per mapping, a description under every option.

Pydantic validates it; editors show the descriptions. The defaults here are those of an empty file, except for the
policies: those are in `presets.yaml`. Other rooms use Limits and the classes of `guardproxy.policy` as they are; the
names of all other classes end in Settings.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, get_args

from annotated_types import Interval, Len

from guardproxy.calibration import Calibration
from guardproxy.patterns import CategoryPatterns
from guardproxy.settings.model_alerts import AlertSettings
from guardproxy.settings.model_clients import ClientSettings
from guardproxy.settings.model_console import ConsoleSettings
from guardproxy.settings.model_otel import OtelSettings
from guardproxy.settings.model_paths import PathSettings
from guardproxy.settings.model_policy import Count, PolicySettings, Probability, RouteSettings, Text
from guardproxy.settings.model_replicas import CompletionsSettings, ReplicaSettings
from guardproxy.settings.model_server import AdminSettings, Limits, Seconds, ServerSettings
from guardproxy.settings.model_shared import SharedStateSettings
from guardproxy.settings.model_upstreams import GroupSettings, UpstreamSettings, Weight
from guardproxy.types import Category, Taxonomy

# The name of the guard that ships with the package, which is always defined.
EMBEDDED = "embedded"
EMBEDDED_PARTS = ("embedded-small", "embedded-large")  # its models in the order in which they are asked
# The model that does not ship, because it is too large: `make train-multilingual` writes it to the data directory.
MULTILINGUAL = "embedded-multilingual"


# The guard's own APIs, which are protocols of routes like the wires.
ApiName = Literal["check", "moderations", "litellm", "nemo", "bedrock"]
APIS: tuple[str, ...] = get_args(ApiName)


@dataclass(frozen=True, slots=True)
class CascadeSettings:
    """Two guards: the second is asked only if the first is not sure."""

    first: Text
    """The guard that is asked first: `embedded`, or a name from `guards`."""
    second: Text
    """The guard that is asked, and then decides, if the first guard's P(unsafe) is within the bounds."""
    low: Probability
    """Below this P(unsafe), the first verdict is final. `guardproxy calibrate --cascade` finds both bounds."""
    high: Probability
    """Above this P(unsafe), the first verdict is final."""


@dataclass(frozen=True, slots=True)
class ByLanguageSettings:
    """Two guards: the languages of a text decide which of them is asked, or whether both are."""

    first: Text
    """The guard for texts in the languages that it reads: `embedded`, or a name from `guards`."""
    others: Text
    """The guard for texts in other languages."""


Guards = Text | Annotated[tuple[Text, ...], Len(1)]


@dataclass(frozen=True, slots=True)
class ByRoleSettings:
    """Which guards read which texts: the name of a guard, or a list of names of guards that are all asked."""

    user: Guards
    """The guard for requests: `embedded`, or a name from `guards`. It reads the results of tools as well."""
    assistant: Guards | None = None
    """The guard for replies; without it, that of `user`."""
    tool: Guards | None = None
    """A guard that reads the results of tools by themselves, for example one that finds injected instructions."""

    def of(self, role: Literal["user", "assistant", "tool"]) -> tuple[str, ...]:
        """The names of the guards for a role."""
        named = getattr(self, role) or self.user
        return (named,) if isinstance(named, str) else named


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """How a moderation service is called."""

    key: Text | None = field(repr=False)
    """The service's key, as ${env:NAME}."""
    url: Text | None = None
    """Base address, if each customer of the service has a separate one; without it, the service's public address."""
    attempts: Annotated[int, Interval(ge=1, le=10)] = 4
    """Maximum number of attempts per call, if the service is too busy or fails."""
    concurrency: Count = 8
    """Maximum number of concurrent calls."""
    per_second: Annotated[float, Interval(gt=0)] | None = None
    """Maximum number of calls started per second; without it, there is no such limit."""


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """The model that judges."""

    family: Text = "classifier"
    """How the model is prompted and read: a built-in family, or `module:attribute`; `patterns`, `pii` need no model."""
    model: Text = EMBEDDED
    """A Hugging Face id, a directory, a GGUF file, or what ships with guardproxy: `embedded`, which asks its small
    model and, where that one is unsure, its large one; `embedded-small` or `embedded-large` for one of them alone.
    `embedded-multilingual` is a model for many languages, which `make train-multilingual` trains."""
    device: Text = "auto"
    """Where the model runs: `cpu`, `cuda`, `cuda:N`, or `auto`, which takes a GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights; `auto` is bfloat16 on a GPU and the faster of float32 and bfloat16 on a CPU."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the family."""
    taxonomy: Text | None = None
    """The categories to judge by, a name from `taxonomies`; without it, the family's own."""
    languages: tuple[Text, ...] | None = None
    """Codes of the languages that the guard reads; without it, those of its model's card; `[]` makes no statement."""
    reads: tuple[Literal["text", "image"], ...] = ("text",)
    """What it is shown: `[text, image]` shows it the images that stand in a request or a reply as data, if it is a
    service that reads images."""
    timeout_s: Seconds = 30.0
    """Seconds that a check may take, including its wait, before the guard counts as failed; a text that itself takes
    longer is refused (413)."""
    max_wait_s: Seconds = 2.0
    """A check that others would delay by more than these seconds is refused at once, as overload."""
    max_batch_tokens: Count | None = None
    """Maximum number of tokens in a forward pass; without it, a number that suits the device."""
    threads: Annotated[int, Interval(ge=1, le=1024)] | None = None
    """CPU threads of the model; without it, PyTorch's default."""
    service: ServiceSettings | None = None
    """How the service is called, for the families that are moderation services."""
    runner: Literal["local", "http", "openai"] = "local"
    """Where the model runs: `local`, on this machine, or on the servers that `replicas` names: `http` for `guardproxy
    guard`, `openai` for servers such as vLLM, which know `model` by this name. Families of labels need `openai`."""
    replicas: ReplicaSettings | None = None
    """The servers that judge, for the runners `http` and `openai`."""
    completions: CompletionsSettings | None = None
    """How the model is read on the servers, for the runner `openai`."""
    patterns: Annotated[Mapping[str, CategoryPatterns], Len(1)] | None = None
    """For the family `patterns`: by category, the words, expressions and formats of credentials that it looks for."""
    all: Annotated[tuple[Text, ...], Len(1)] | None = None
    """Names of guards that are all asked; the greatest probability of each category counts."""
    mean: Mapping[str, tuple[Weight, ...]] | None = None
    """Use a weighted mean instead of the maximum: by category, `unsafe` or "*", a weight for each guard of `all`."""
    cascade: CascadeSettings | None = None
    """Two guards: the second is asked only if the first is not sure."""
    by_language: ByLanguageSettings | None = None
    """Two guards: the first for the languages that it reads, the other for all other languages."""
    by_role: ByRoleSettings | None = None
    """A guard for requests, for replies, and for the results of tools."""
    calibration: Calibration | None = None
    """Maps from the guard's probabilities to those on your traffic, with which thresholds are compared.
    `guardproxy calibrate --platt` finds them."""


@dataclass(frozen=True, slots=True)
class CategorySettings:
    """A kind of harm."""

    id: Text
    """The name in policies, records and metrics: lower-case letters, digits and underscores."""
    name: str = ""
    """The name that the guard reads; without name and description, both are those of the family's category."""
    description: str = ""
    """What the category includes and excludes, for guards that read their policy from the prompt."""
    code: str = ""
    """The code that a generative guard prints for it, such as O3; without it, the family numbers the categories."""
    examples: tuple[str, ...] = ()
    """Few-shot lines, for guards that read their policy from the prompt."""


@dataclass(frozen=True, slots=True)
class TaxonomySettings:
    """A list of categories to judge by."""

    categories: Annotated[tuple[CategorySettings, ...], Len(1)]
    """The categories, in the order in which the guard reads them."""


_CONSOLE, _LIMITS, _PATHS, _SERVER = ConsoleSettings(), Limits(), PathSettings(), ServerSettings()
_UPSTREAM = UpstreamSettings()
# The headers in which the protocols and their gateways send the client's key.
CREDENTIAL_HEADERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key", "ocp-apim-subscription-key")
# Where clients of the protocols name their end user and their session. OpenAI's `prompt_cache_key` is not among them:
# many sessions with the same beginning share it.
USER_PLACES = ("body user", "body safety_identifier", "body metadata.user_id", "header x-user-id")
CONTINUED = "conversation"  # no place: a request has the session of the one that it continues
SESSION_PLACES = (
    "header x-session-id",
    "body session_id",
    "body metadata.session_id",
    "body conversation",
    "body conversation.id",
    CONTINUED,
)


@dataclass(frozen=True, slots=True)
class KeepSettings:
    """How long records are kept: a number with s, m, h, d or w, such as 90d. Without a duration they stay."""

    blocked: Text | None = None
    """Records of decisions to block, rewrite or flag."""
    passed: Text | None = None
    """Records of decisions to pass."""
    text: Text | None = None
    """The text alone; the rest of the record stays."""


@dataclass(frozen=True, slots=True)
class ExclusionSettings:
    """A text that is known to be harmless: what the guard finds in exactly this text does not count."""

    sha256: Text
    """The SHA-256 of the text in UTF-8, in hex."""
    category: Text
    """The category whose findings do not count: its id, `unsafe`, or * for everything."""
    reason: Text
    """Why the text is harmless."""
    by: Text
    """Who says so."""
    until: Text
    """When the exclusion ends: an ISO 8601 date or time, in local time if it has no zone."""


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """The record of every judged turn."""

    store: Text = field(default="embedded", repr=False)
    """`embedded` (SQLite in the data directory), a database address, `none`, or `module:attribute`."""
    text: Literal["full", "redacted", "hash", "none"] = "redacted"
    """How much of the judged text is stored."""
    required: bool = False
    """Whether an answer waits until its record is stored, and is refused if that fails."""
    log: bool = True
    """Whether each record is also a log line."""
    after_disconnect_s: Annotated[float, Interval(ge=0, le=3600)] = 30.0
    """Seconds for which a text is judged on after its client has left, so that its record is complete."""
    user: tuple[Text, ...] = USER_PLACES
    """Where a request names its end user: `body key.key` or `header name`; the first that there is counts."""
    session: tuple[Text, ...] = SESSION_PLACES
    """Where a request names its session, in the same form; last `conversation`: that of the request it continues."""
    user_plain: bool = False
    """Whether records hold the end user and the session in plain text, not as a hash."""
    sample_passed: Probability = 0.01
    """The share of requests that are marked as a random sample, for the review of what passed."""
    passed: Literal["all", "sampled"] = "all"
    """Which passed turns are recorded: `all`, or only those of the `sampled` requests."""
    keep: KeepSettings | None = None
    """How long the store keeps records; the proxy erases older ones at its start and every hour."""
    encrypt: Text | Annotated[tuple[Text, ...], Len(1)] | None = field(default=None, repr=False)
    """A key, or a list of keys, as ${env:NAME}: texts are encrypted with the first one, and each may decrypt."""
    chain_key: Text | None = field(default=None, repr=False)
    """A key, as ${env:NAME}, without which nobody can compute the hash chain again after a change."""
    second_opinion: Text | None = None
    """A guard from `guards` that reviewers may ask about a record; it reads the stored text, and decides nothing."""
    exclusions: tuple[ExclusionSettings, ...] = ()
    """Texts that are known to be harmless, beside those in the store (`guardproxy audit exclude`)."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe level that is logged."""
    format: Literal["auto", "json", "console"] = "auto"
    """`json` lines, readable `console` lines, or `auto`: console on a terminal, json elsewhere."""


@dataclass(frozen=True, slots=True)
class Document:
    """A guardproxy configuration."""

    # Pydantic applies this to the classes below as well: unknown keys are mistakes, the texts under the fields are
    # their descriptions.
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "use_attribute_docstrings": True}

    version: Literal[1] = 1
    """The version of this format."""
    server: ServerSettings = _SERVER
    """Where the proxy listens."""
    admin: AdminSettings | None = None
    """A listener of its own for /healthz, /readyz, /metrics and the reviewer's page, which are else on the proxy's."""
    upstream: UpstreamSettings = _UPSTREAM
    """The LLM service behind the proxy."""
    upstreams: Mapping[str, UpstreamSettings] = field(default_factory=dict)
    """Several LLM services by name, in place of `upstream`; routes and groups name them."""
    upstream_groups: Mapping[str, GroupSettings] = field(default_factory=dict)
    """Upstreams that stand in for each other, by name. `default`, a group or an upstream, serves other requests."""
    guard: GuardSettings = GuardSettings()
    """The model that judges."""
    guards: Mapping[str, GuardSettings] = field(default_factory=dict)
    """Guards by name, for `guard.all`, `cascade`, `by_language` and `by_role`, each with the options of `guard`."""
    taxonomies: Mapping[str, TaxonomySettings] = field(default_factory=dict)
    """Your own lists of categories, by name."""
    wires: tuple[str, ...] | None = None
    """Chat protocols to read: built-in names or `module:attribute`; without it, every built-in one."""
    apis: tuple[ApiName, ...] | None = None
    """APIs of the guard to serve beside the proxy: without it `moderations`; `guardproxy guard` serves `check`, too."""
    limits: Limits = _LIMITS
    """The largest request and reply that are read."""
    paths: PathSettings = _PATHS
    """Requests that pass unread or are refused by method and path."""
    policies: Mapping[str, PolicySettings] = field(default_factory=dict)
    """Policies by name; `default` applies if no route matches. Without it, the built-in policy applies."""
    routes: tuple[RouteSettings, ...] = ()
    """Which requests each policy applies to."""
    clients: Annotated[Mapping[str, ClientSettings], Len(1)] | None = None
    """Who may use the proxy, by name. Without it, whoever reaches it."""
    audit: AuditSettings = AuditSettings()
    """The record of every judged turn."""
    alerts: AlertSettings | None = None
    """Whom to tell of which decisions: webhooks and syslog servers."""
    console: ConsoleSettings = _CONSOLE
    """The reviewer's page at /guardproxy/."""
    log: LogSettings = LogSettings()
    """The log on standard error."""
    otel: OtelSettings | None = None
    """OpenTelemetry: traces, metrics and logs, sent over OTLP. Without this section, nothing is sent."""
    shared_state: SharedStateSettings | None = None
    """What several processes know together, in Redis or Valkey. Without this section, each knows its own."""

    def members(self) -> dict[str, GuardSettings]:
        """The guards that `guard` combines, by name and in the order of its options; empty for a single guard.

        Names that are not defined are left out.
        """
        cascade, by_language = self.guard.cascade, self.guard.by_language
        names = self.guard.all or ()
        if cascade:
            names = (cascade.first, cascade.second)
        elif by_language:
            names = (by_language.first, by_language.others)
        elif self.guard.by_role:
            by_role = self.guard.by_role
            names = tuple(dict.fromkeys((*by_role.of("user"), *by_role.of("assistant"), *by_role.of("tool"))))
        defined = {EMBEDDED: GuardSettings(), **self.guards}
        return {name: defined[name] for name in names if name in defined}

    def opinion(self) -> GuardSettings | None:
        """The guard that gives second opinions, None if none is named or defined."""
        return {EMBEDDED: GuardSettings(), **self.guards}.get(self.audit.second_opinion or "")

    def taxonomy_of(self, guard: GuardSettings) -> Taxonomy | None:
        """The taxonomy that a guard names, or None for the family's own (or an undefined name)."""
        name = guard.taxonomy
        if name is None or name not in self.taxonomies:
            return None
        return Taxonomy(
            name,
            tuple(
                Category(category.id, category.name, category.description, category.code, category.examples)
                for category in self.taxonomies[name].categories
            ),
        )
