"""The options of the server and its limits: what a client may cost."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from guardproxy.settings.model_policy import Count, Text

Seconds = Annotated[float, Interval(gt=0, le=86_400)]


@dataclass(frozen=True, slots=True)
class ServerTlsSettings:
    """The certificate with which a listener answers over TLS. A changed file is read again at the next connection."""

    cert: Text
    """PEM file of the certificate, with those of the authorities between it and the root behind it."""
    key: Text
    """PEM file of its private key, without a passphrase."""
    client_ca: Text | None = None
    """PEM file of authorities: only clients with a certificate of one of them are served."""


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """A listener of its own for /healthz, /readyz, /metrics and the reviewer's page."""

    host: Text = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every IPv4 address of the machine."""
    port: Annotated[int, Interval(ge=0, le=65_535)] = 9090
    """Port to listen on, other than the proxy's; 0 takes any free port."""
    hosts: tuple[Text, ...] | None = None
    """Host names of this listener, with * for any text. Without it: on a loopback address only localhost, elsewhere
    any name. IP addresses are always served."""
    tls: ServerTlsSettings | None = None
    """The certificate of this listener; without it, it speaks plain HTTP."""


@dataclass(frozen=True, slots=True)
class CorsSettings:
    """Pages in browsers that may read the proxy's answers."""

    origins: tuple[Text, ...] = ()
    """Their origins, as in `server.origins`, where they need not stand as well; the proxy then answers preflight
    requests, and the upstream's own CORS headers do not pass."""


_CORS = CorsSettings()


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the proxy listens."""

    host: Text = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every IPv4 address of the machine."""
    port: Annotated[int, Interval(ge=0, le=65_535)] = 8080
    """Port to listen on; 0 takes any free port."""
    workers: Annotated[int, Interval(ge=1, le=256)] = 1
    """Number of processes that answer requests."""
    hosts: tuple[Text, ...] | None = None
    """Host names of this server, with * for any text; a request for another is refused. Without it, any name."""
    origins: tuple[Text, ...] = ()
    """Origins whose pages may call the proxy from a browser, such as https://app.example.com; * for any text."""
    cors: CorsSettings = _CORS
    """Pages in browsers that may read the proxy's answers; without it, the upstream's CORS headers say so."""
    max_connections: Count = 1024
    """Open connections of clients, per worker; a further one is answered with 503 and closed."""
    header_timeout_s: Seconds = 10.0
    """Seconds within which the headers of a request must have come, from the connection or its first byte on."""
    body_timeout_s: Seconds = 120.0
    """Seconds within which the body of a request must have come."""
    idle_timeout_s: Seconds = 75.0  # longer than clients and load balancers wait, or both may end it at the same moment
    """Seconds after an answer after which a connection without a further request is closed."""
    write_timeout_s: Seconds = 30.0
    """Seconds for which a client may leave an answer unread before its connection is cut."""
    grace_s: Annotated[int, Interval(ge=1, le=3600)] = 20
    """Seconds that requests have to end when the server stops, and after them the texts whose client has left."""
    tls: ServerTlsSettings | None = None
    """The certificate of the proxy's listener; without it, it speaks plain HTTP."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest request and reply that are read; anything larger is refused, never cut."""

    body_bytes: Count = 20_971_520
    """Bytes of a request body."""
    reply_bytes: Count = 20_971_520
    """Bytes of an upstream's reply."""
    characters: Count = 1_000_000
    """Characters of all texts of a conversation, and of a reply."""
    messages: Count = 10_000
    """Messages of a conversation."""
    parts: Count = 20_000
    """Texts and other pieces of content of a conversation."""
    values: Count = 250_000
    """Commas and opening brackets of a request body outside of its strings: about the number of its values."""
    reply_values: Count = 4_000_000
    """The same for a reply. With 20 alternatives, the log probabilities of a token have about 150."""
    images: Count = 64
    """Images of a request that the guard reads; all of them together are within `body_bytes`."""
    image_bytes: Count = 10_485_760
    """Bytes of such an image."""
    image_pixels: Annotated[int, Interval(ge=1, le=178_956_970)] = 40_000_000  # Pillow decodes no more
    """Pixels of such an image; decoding it takes about four bytes of memory for each."""
    stream_bytes: Count = 268_435_456
    """Bytes of a streamed reply; one that is longer ends there with a refusal."""
