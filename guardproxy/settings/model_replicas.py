"""The shape of a guard's replicas in a configuration file; see `model` for its conventions."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Interval, Len

from guardproxy.settings.model_policy import Count, Probability, Text
from guardproxy.settings.model_server import Seconds
from guardproxy.settings.model_upstreams import Attempts, EjectSettings, UpstreamTlsSettings

_TLS = UpstreamTlsSettings()
# A check is repeated elsewhere at once, so a replica is given up sooner than an upstream.
_EJECT = EjectSettings(failures=3, first_s=1.0, longest_s=10.0)


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """The servers that judge, all with the same model and options."""

    urls: Annotated[tuple[Text, ...], Len(1)]
    """Their addresses: `http://host:port`, `https://host:port`, or `unix:/path` for a socket of this machine."""
    key: Text | None = field(default=None, repr=False)
    """The key by which they know the proxy, as ${env:NAME}, if they ask for one."""
    attempts: Attempts = 3
    """Maximum number of calls for a check, of another replica each time if there is one."""
    hedge: bool = False
    """Whether a check that takes longer than 95 % of the others is asked of a second replica as well."""
    check_every_s: Seconds = 2.0
    """Seconds between two questions to a replica what it is and whether it is ready, and the time it has to answer."""
    eject: EjectSettings = _EJECT
    """When a replica is taken out of use while it fails."""
    connect_s: Seconds = 2.0
    """Seconds to connect."""
    max_connections: Count = 256
    """Maximum number of connections to a replica, per worker."""
    tls: UpstreamTlsSettings = _TLS
    """How their certificates are checked, and the proxy's own."""


@dataclass(frozen=True, slots=True)
class CompletionsSettings:
    """How a guard model is read on servers with OpenAI's completions API, such as vLLM, for the runner `openai`."""

    tokenizer: Text | None = None
    """The model's tokenizer: a Hugging Face id, a directory or a GGUF file; without it, what `model` names."""
    context_tokens: Count | None = None
    """How many tokens the server's model reads; without it, what the server says (`max_model_len`)."""
    logprobs: Annotated[int, Interval(ge=1, le=1000)] = 20
    """Of how many next tokens the server is asked to show the probability; servers have a limit of their own."""
    uncertainty: Probability = 0.01
    """A verdict of which a probability may be off by more than this, because of tokens that are not shown, is none."""
