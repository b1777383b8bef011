"""The shape of a guard's replicas in a configuration file; see `model` for its conventions."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Len

from guardproxy.settings.model_policy import Count, Text
from guardproxy.settings.model_server import Seconds
from guardproxy.settings.model_upstreams import Attempts, EjectSettings, UpstreamTlsSettings

_TLS = UpstreamTlsSettings()
# A check is repeated elsewhere at once, so a replica is given up sooner than an upstream.
_EJECT = EjectSettings(failures=3, first_s=1.0, longest_s=10.0)


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """The processes of `guardproxy guard` that judge, all with the same model and options."""

    urls: Annotated[tuple[Text, ...], Len(1)]
    """Their addresses: `http://host:port`, `https://host:port`, or `unix:/path` for a socket of this machine."""
    key: Text | None = field(default=None, repr=False)
    """The key by which they know the proxy, as ${env:NAME}, if their own file has `clients`."""
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
