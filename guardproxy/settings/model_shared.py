"""The shape of the section `shared_state` of a configuration file; see `model` for its conventions."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Interval

from guardproxy.settings.model_policy import Text
from guardproxy.settings.model_upstreams import UpstreamTlsSettings

_TLS = UpstreamTlsSettings()


@dataclass(frozen=True, slots=True)
class SharedStateSettings:
    """What several processes and machines know together, in Redis or Valkey. Needs the extra `redis`."""

    url: Text = field(repr=False)
    """The server: `redis://host:6379`, `rediss://host:6379` for TLS, or `unix:///path`; a password as ${env:NAME}."""
    secret: Text | None = field(repr=False)
    """A secret of 32 characters or more, as ${env:NAME}, the same for all processes: it makes the keys, and seals the
    values."""
    namespace: Text = "guardproxy"
    """The beginning of every key in the server: letters, digits, dots, dashes and underscores."""
    timeout_s: Annotated[float, Interval(gt=0, le=1)] = 0.02
    """Seconds that a call may take. A request waits no longer for what others know."""
    keep_verdicts: Text = "1d"
    """How long a verdict stays in the server: a number with s, m, h, d or w."""
    keep_replies: Text = "30d"
    """How long it stays known of a reply that it passed or was withheld: as long as the upstream keeps replies."""
    tls: UpstreamTlsSettings = _TLS
    """How the server's certificate is checked, and the proxy's own, for rediss."""
