"""Settings: the YAML file, parsed with line numbers and checked as a whole before anything is built from it."""

from guardproxy.settings.catalogue import Catalogue
from guardproxy.settings.checks.rules import rule_mistakes
from guardproxy.settings.checks.upstream import upstream_url_error, url_error
from guardproxy.settings.edit import own_rules, replace_text, with_calibration, with_found_rules, with_rules
from guardproxy.settings.load import load, load_text, read_text
from guardproxy.settings.model import (
    CONTINUED,
    CREDENTIAL_HEADERS,
    EMBEDDED,
    EMBEDDED_PARTS,
    MULTILINGUAL,
    AuditSettings,
    ByRoleSettings,
    GuardSettings,
    LogSettings,
    ServiceSettings,
)
from guardproxy.settings.model_alerts import AlertSettings, ReceiverSettings
from guardproxy.settings.model_console import OPERATOR, ConsoleKeySettings, ConsoleSettings, ReviewerRole
from guardproxy.settings.model_otel import OtelSettings
from guardproxy.settings.model_paths import PathSettings
from guardproxy.settings.model_replicas import CompletionsSettings, ReplicaSettings
from guardproxy.settings.model_server import AdminSettings, Limits, ServerSettings, ServerTlsSettings
from guardproxy.settings.model_shared import SharedStateSettings
from guardproxy.settings.model_upstreams import (
    GroupSettings,
    UpstreamSettings,
    UpstreamTlsSettings,
)
from guardproxy.settings.packaged import starter
from guardproxy.settings.presets import DEFAULT_PRESET
from guardproxy.settings.resolve import DEMO, MemberSettings, Settings

__all__ = [
    "CONTINUED",
    "CREDENTIAL_HEADERS",
    "DEFAULT_PRESET",
    "DEMO",
    "EMBEDDED",
    "EMBEDDED_PARTS",
    "MULTILINGUAL",
    "OPERATOR",
    "AdminSettings",
    "AlertSettings",
    "AuditSettings",
    "ByRoleSettings",
    "Catalogue",
    "CompletionsSettings",
    "ConsoleKeySettings",
    "ConsoleSettings",
    "GroupSettings",
    "GuardSettings",
    "Limits",
    "LogSettings",
    "MemberSettings",
    "OtelSettings",
    "PathSettings",
    "ReceiverSettings",
    "ReplicaSettings",
    "ReviewerRole",
    "ServerSettings",
    "ServerTlsSettings",
    "ServiceSettings",
    "Settings",
    "SharedStateSettings",
    "UpstreamSettings",
    "UpstreamTlsSettings",
    "load",
    "load_text",
    "own_rules",
    "read_text",
    "replace_text",
    "rule_mistakes",
    "starter",
    "upstream_url_error",
    "url_error",
    "with_calibration",
    "with_found_rules",
    "with_rules",
]
