"""The composition root: settings to objects to an ASGI application. The only place that joins names to objects."""

from guardproxy.build.names import guard, known
from guardproxy.build.service import Place, Service, read
from guardproxy.build.serving import banner, serve, worker

__all__ = ["Place", "Service", "banner", "guard", "known", "read", "serve", "worker"]
