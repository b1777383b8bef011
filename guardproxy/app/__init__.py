"""The composition root: settings to objects to an ASGI application. The only place that joins names to objects."""

from guardproxy.app.names import guard, known
from guardproxy.app.service import ConfigSource, Service, read
from guardproxy.app.serving import banner, serve, worker

__all__ = ["ConfigSource", "Service", "banner", "guard", "known", "read", "serve", "worker"]
