"""Settings: the YAML file, parsed with line numbers and checked as a whole before anything is built from it."""

from guardproxy.settings.catalogue import Catalogue
from guardproxy.settings.checks.rules import rule_mistakes
from guardproxy.settings.checks.upstream import url_error
from guardproxy.settings.edit import own_rules, replace_text, with_calibration, with_found_rules, with_rules
from guardproxy.settings.load import load, load_text
from guardproxy.settings.model import (
    CREDENTIAL_HEADERS,
    EMBEDDED,
    EMBEDDED_PARTS,
    MULTILINGUAL,
    AuditSettings,
    GuardSettings,
    LogSettings,
    PathSettings,
    ServiceSettings,
    UpstreamSettings,
)
from guardproxy.settings.model_console import OPERATOR, ConsoleKeySettings, ConsoleSettings, ReviewerRole
from guardproxy.settings.model_server import Limits, ServerSettings
from guardproxy.settings.packaged import starter
from guardproxy.settings.presets import DEFAULT_PRESET
from guardproxy.settings.resolve import MemberSettings, Settings

__all__ = [
    "CREDENTIAL_HEADERS",
    "DEFAULT_PRESET",
    "EMBEDDED",
    "EMBEDDED_PARTS",
    "MULTILINGUAL",
    "OPERATOR",
    "AuditSettings",
    "Catalogue",
    "ConsoleKeySettings",
    "ConsoleSettings",
    "GuardSettings",
    "Limits",
    "LogSettings",
    "MemberSettings",
    "PathSettings",
    "ReviewerRole",
    "ServerSettings",
    "ServiceSettings",
    "Settings",
    "UpstreamSettings",
    "load",
    "load_text",
    "own_rules",
    "replace_text",
    "rule_mistakes",
    "starter",
    "url_error",
    "with_calibration",
    "with_found_rules",
    "with_rules",
]
