"""The composition root: settings to objects to an ASGI application. The only place that joins names to objects.

Its names are imported when they are first used: `guardproxy moderate` needs neither web server nor audit store.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guardproxy.app.access import serves_anybody
    from guardproxy.app.alerts import receiver_of
    from guardproxy.app.audit import store_address, store_keys
    from guardproxy.app.exclusions import exclusions_of
    from guardproxy.app.guarding import serve_guard
    from guardproxy.app.guards import guard, guard_name, location, traits
    from guardproxy.app.kinds import label_note
    from guardproxy.app.languages import languages_read
    from guardproxy.app.opinions import SecondOpinions
    from guardproxy.app.policy_file import ConfigSource, PolicyFile, read
    from guardproxy.app.registries import catalogue
    from guardproxy.app.service import Service
    from guardproxy.app.serving import banner, serve, worker

__all__ = [
    "ConfigSource",
    "PolicyFile",
    "SecondOpinions",
    "Service",
    "banner",
    "catalogue",
    "exclusions_of",
    "guard",
    "guard_name",
    "label_note",
    "languages_read",
    "location",
    "read",
    "receiver_of",
    "serve",
    "serve_guard",
    "serves_anybody",
    "store_address",
    "store_keys",
    "traits",
    "worker",
]

_MODULES = {
    "ConfigSource": "policy_file",
    "PolicyFile": "policy_file",
    "SecondOpinions": "opinions",
    "Service": "service",
    "banner": "serving",
    "catalogue": "registries",
    "exclusions_of": "exclusions",
    "guard": "guards",
    "guard_name": "guards",
    "label_note": "kinds",
    "languages_read": "languages",
    "location": "guards",
    "read": "policy_file",
    "receiver_of": "alerts",
    "serve": "serving",
    "serve_guard": "guarding",
    "serves_anybody": "access",
    "store_address": "audit",
    "store_keys": "audit",
    "traits": "guards",
    "worker": "serving",
}


def __getattr__(name: str) -> Any:
    """The object `name` from its module. Raises AttributeError."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
