"""Settings: the YAML file, read with its line numbers and checked as a whole before anything is built from it."""

from guardproxy.settings.load import Member, Settings, load, load_text
from guardproxy.settings.meaning import Known, url_fault
from guardproxy.settings.model import Audit, GuardSettings, Limits, Log, Paths, Server, Upstream

__all__ = [
    "Audit",
    "GuardSettings",
    "Known",
    "Limits",
    "Log",
    "Member",
    "Paths",
    "Server",
    "Settings",
    "Upstream",
    "load",
    "load_text",
    "url_fault",
]
