"""The shape of the section `alerts` of a configuration file; see `model` for its conventions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval, Len

from guardproxy.alerting import AlertCondition
from guardproxy.settings.model_policy import Count, Text
from guardproxy.settings.model_server import Seconds


@dataclass(frozen=True, slots=True)
class ReceiverTlsSettings:
    """How the receiver's certificate is checked, and the proxy's own."""

    ca: Text | None = None
    """PEM file of trusted certificate authorities; without it, Mozilla's list (the package certifi) is trusted."""
    cert: Text | None = None
    """PEM file of the certificate by which the receiver knows the proxy."""
    key: Text | None = None
    """PEM file of the private key of `cert`, without a passphrase."""


@dataclass(frozen=True, slots=True)
class ReceiverSettings:
    """Who is told: either `webhook` or `syslog`."""

    webhook: Text | None = field(default=None, repr=False)
    """The address to which alerts are posted; it may contain ${env:NAME}."""
    syslog: Text | None = None
    """The host of a syslog server over TLS (RFC 5425), and its port unless that is 6514: `host:port`."""
    secret: Text | None = field(default=None, repr=False)
    """The key that signs what is posted, as ${env:NAME}: base64 of 24 to 64 bytes, also behind `whsec_`."""
    format: Literal["json", "slack", "ocsf", "cef"] | None = None
    """A webhook's `json`, `slack` or `ocsf`, by default json; a syslog server's `cef` or `ocsf`, by default cef."""
    conditions: Annotated[tuple[Text, ...], Len(1)] | None = None
    """The names of the conditions that it is told of; without it, all."""
    text: bool = False
    """Whether it gets the judged text, as the audit store has it."""
    every_s: Annotated[float, Interval(ge=0, le=86_400)] = 60.0
    """Seconds between two messages; what happens meanwhile is in the next one."""
    queue: Count = 1000
    """The most alerts that wait for this receiver."""
    timeout_s: Seconds = 10.0
    """Seconds that an attempt may take."""
    tls: ReceiverTlsSettings = ReceiverTlsSettings()
    """How the receiver's certificate is checked, and the proxy's own."""


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """Whom to tell of what."""

    conditions: Mapping[str, AlertCondition]
    """Which records an alert is about, by names of your own."""
    receivers: Mapping[str, ReceiverSettings]
    """Who is told, by names of your own."""
