"""The shape of clients in a configuration file; see `model` for its conventions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Len

from guardproxy.settings.model_policy import Count, Text


@dataclass(frozen=True, slots=True)
class ClientKeySettings:
    """A key of a client."""

    sha256: Text
    """The SHA-256 of the key, in hex: `guardproxy key new NAME` prints it."""
    expires: Text | None = None
    """When the key ends: an ISO 8601 date or time, in local time if it has no zone. Without it, never."""


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Somebody who may use the proxy: a team, an application."""

    keys: Annotated[tuple[ClientKeySettings, ...], Len(1)]
    """The keys by which the proxy knows the client; two while one takes the place of the other."""
    requests_per_minute: Count | None = None
    """Maximum number of requests in a minute, of all workers together; without it, there is no such limit."""
    characters_per_minute: Count | None = None
    """Maximum number of characters in a minute, of the texts of requests; without it, there is no such limit."""
    upstream_keys: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    """The client's own keys at upstreams, as ${env:NAME}, by the name of the upstream; `default` is a single one."""
