"""The composition root: settings to objects to an ASGI application. The only place that joins names to objects."""

from guardproxy.app.alerts import receiver_of
from guardproxy.app.audit import exclusions_of, store_address, store_keys
from guardproxy.app.guarding import serve_guard
from guardproxy.app.guards import guard, guard_name, location, traits
from guardproxy.app.languages import languages_read
from guardproxy.app.policy_file import ConfigSource, PolicyFile, read
from guardproxy.app.registries import catalogue
from guardproxy.app.service import Service
from guardproxy.app.serving import banner, serve, worker

__all__ = [
    "ConfigSource",
    "PolicyFile",
    "Service",
    "banner",
    "catalogue",
    "exclusions_of",
    "guard",
    "guard_name",
    "languages_read",
    "location",
    "read",
    "receiver_of",
    "serve",
    "serve_guard",
    "store_address",
    "store_keys",
    "traits",
    "worker",
]
