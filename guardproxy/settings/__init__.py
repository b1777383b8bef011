"""Settings: the YAML file, read with its line numbers and checked as a whole before anything is built from it."""

from importlib.resources import files

from guardproxy.settings.checks.document import Catalogue, url_fault
from guardproxy.settings.load import Member, Settings, load, load_text
from guardproxy.settings.model import Audit, GuardSettings, Limits, Log, Paths, Server, Upstream

__all__ = [
    "Audit",
    "Catalogue",
    "GuardSettings",
    "Limits",
    "Log",
    "Member",
    "Paths",
    "Server",
    "Settings",
    "Upstream",
    "load",
    "load_text",
    "starter",
    "url_fault",
]


def starter() -> str:
    """The commented configuration that `guardproxy init` writes."""
    return (files("guardproxy.settings") / "starter.yaml").read_text("utf-8")
