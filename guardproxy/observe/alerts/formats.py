"""What a receiver reads of an alert: JSON, a message for Slack, OCSF's Detection Finding, CEF. Pure.

Without `text`, nothing that a client or a model wrote is in it; the identifiers are those of the record.
"""

import json
from datetime import UTC, datetime
from typing import Any, Final

from guardproxy import __version__
from guardproxy.alerting import Alert, AlertMessage
from guardproxy.types import ActionName, OutcomeName, Record

_OCSF_VERSION: Final = "1.5.0"
# The severities of OCSF, 1 (informational) to 4 (high), and of CEF, 0 to 10.
_OCSF_SEVERITY: Final[dict[ActionName, int]] = {"pass": 1, "flag": 2, "rewrite": 3, "block": 4}
_CEF_SEVERITY: Final[dict[ActionName, int]] = {"pass": 1, "flag": 4, "rewrite": 6, "block": 8}
# The action and the disposition of OCSF's profile `security_control`, each with its number.
_DISPOSITION: Final[dict[OutcomeName, tuple[int, str, int, str]]] = {
    "pass": (1, "Allowed", 1, "Allowed"),
    "replace": (1, "Allowed", 11, "Corrected"),
    "steer": (1, "Allowed", 11, "Corrected"),
    "refuse": (2, "Denied", 2, "Blocked"),
    "drop": (2, "Denied", 6, "Dropped"),
}
_SLACK_LINES: Final = 20  # of one message; a longer one cannot be read
_SLACK_TEXT: Final = 500  # characters of the judged text in a line for Slack


def alert_fields(alert: Alert, *, text: bool) -> dict[str, Any]:
    """The fields of an alert in JSON: what happened, and the record that completed it."""
    record, condition = alert.record, alert.condition
    return {
        "id": alert.id,
        "condition": alert.name,
        "title": alert.title,
        "count": alert.count,
        "within_s": condition.within_s if condition.count > 1 else None,
        "per": condition.per,
        "group": alert.group,
        "record": _record_fields(record, text=text),
    }


def _record_fields(record: Record, *, text: bool) -> dict[str, Any]:
    origin, decision = record.origin, record.decision
    fields = {
        "id": record.id,
        "time": _iso(record.time),
        "request_id": origin.request_id,
        "side": record.side,
        "action": decision.action,
        "how": decision.how,
        "cause": decision.cause,
        "outcome": record.outcome,
        "unsafe": record.verdict.unsafe if record.verdict else None,
        "reasons": [
            {"category": one.category, "probability": one.probability, "threshold": one.threshold, "action": one.action}
            for one in decision.reasons
        ],
        "route": origin.route,
        "policy": record.policy,
        "policy_version": record.policy_version,
        "wire": origin.wire,
        "client": origin.client,
        "user": origin.user,
        "session": origin.session,
        "shadow": record.shadow,
    }
    return {**fields, "text": record.text} if text else fields


def _iso(time: float) -> str:
    """A time in RFC 3339, in UTC with milliseconds."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def json_body(message: AlertMessage, *, text: bool) -> bytes:
    """The payload that Standard Webhooks recommends: `type`, `timestamp` and `data`, here with `alerts`."""
    alerts = [alert_fields(alert, text=text) for alert in message.alerts]
    data = {"alerts": alerts, "waiting": message.waiting}
    return _json({"type": "guardproxy.alerts", "timestamp": _iso(message.time), "data": data})


def slack_body(message: AlertMessage, *, text: bool) -> bytes:
    """The payload of Slack's incoming webhooks: one line for each alert, of many alerts the first 20."""
    lines = [_slack_line(alert, text=text) for alert in message.alerts[:_SLACK_LINES]]
    more = len(message.alerts) - len(lines)
    if more:
        lines.append(f"… and {more} more in this message")
    if message.waiting:
        lines.append(f"… {message.waiting} wait for the next message")
    return _json({"text": "\n".join(lines), "unfurl_links": False, "unfurl_media": False})


def _slack_line(alert: Alert, *, text: bool) -> str:
    record = alert.record
    scores = ", ".join(f"{one.category} {one.probability:.2f}" for one in record.decision.reasons)
    details = [
        *([scores] if scores else []),
        f"policy {record.policy}",
        f"route {record.origin.route}",
        *([f"client {record.origin.client}"] if record.origin.client else []),
        f"request {record.origin.request_id}",
    ]
    line = f"{alert.title} — {' · '.join(details)}"
    if text:
        shown = record.text if len(record.text) <= _SLACK_TEXT else record.text[:_SLACK_TEXT] + "…"
        line += "".join(f"\n> {one}" for one in shown.splitlines())  # no line of the text stands outside the quotation
    # Slack's three control characters; without them no text of a client becomes a link or calls a channel.
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n&gt; ", "\n> ")


def ocsf_body(message: AlertMessage, *, text: bool) -> bytes:
    """A JSON list of the alerts, each as an OCSF event."""
    return _json([ocsf_event(alert, message.time, text=text) for alert in message.alerts])


def ocsf_event(alert: Alert, time: float, *, text: bool) -> dict[str, Any]:
    """The alert as an OCSF event of the class Detection Finding (2004), with the profile `security_control`.

    `time` is when the message was made. What OCSF has no attribute for is in `unmapped`.
    """
    record = alert.record
    action_id, action, disposition_id, disposition = _DISPOSITION[record.outcome]
    first_ms, time_ms = round(record.time * 1000), round(time * 1000)
    return {
        "activity_id": 1,
        "activity_name": "Create",
        "category_uid": 2,
        "category_name": "Findings",
        "class_uid": 2004,
        "class_name": "Detection Finding",
        "type_uid": 200401,
        "type_name": "Detection Finding: Create",
        "time": time_ms,
        "severity_id": _OCSF_SEVERITY[record.decision.action],
        "status_id": 1,
        "status": "New",
        "is_alert": True,
        "message": alert.title,
        "count": alert.count,
        "end_time": first_ms,
        "metadata": {
            "version": _OCSF_VERSION,
            "product": {"name": "guardproxy", "vendor_name": "guardproxy", "version": __version__},
            "profiles": ["security_control"],
            "uid": alert.id,
            "original_time": _iso(record.time),
            "correlation_uid": record.origin.request_id,
        },
        "finding_info": {
            "uid": alert.id,
            "title": alert.title,
            "types": [*record.decision.categories],
            "created_time": time_ms,
            "last_seen_time": first_ms,
            "analytic": {"name": alert.name, "uid": alert.name, "type_id": 1, "type": "Rule"},
        },
        "action_id": action_id,
        "action": action,
        "disposition_id": disposition_id,
        "disposition": disposition,
        "policy": {"name": record.policy, "version": record.policy_version},
        "unmapped": alert_fields(alert, text=text),
    }


def ocsf_line(alert: Alert, time: float, *, text: bool) -> str:
    """The alert as an OCSF event on one line, for syslog."""
    return _json(ocsf_event(alert, time, text=text)).decode("ascii")


def cef_line(alert: Alert, time: float, *, text: bool) -> str:
    """The alert in ArcSight's Common Event Format, version 0. `time` as for `ocsf_event`."""
    record, origin = alert.record, alert.record.origin
    head = ("guardproxy", "guardproxy", __version__, alert.name, alert.title)
    severity = _CEF_SEVERITY[record.decision.action]
    extension = {
        "externalId": alert.id,
        "rt": str(round(record.time * 1000)),
        "end": str(round(time * 1000)),
        "act": record.decision.action,
        "outcome": record.outcome,
        "cat": ",".join(record.decision.categories),
        "cnt": str(alert.count),
        "reason": record.decision.cause,
        "suid": origin.client,
        "suser": origin.user,
        **_labelled(1, "policy", record.policy),
        **_labelled(2, "route", origin.route),
        **_labelled(3, "requestId", origin.request_id),
        **_labelled(4, "side", record.side),
        **_labelled(5, "record", record.id),
        **_labelled(6, "session", origin.session),
        **({} if record.verdict is None else {"cfp1": f"{record.verdict.unsafe:.4f}", "cfp1Label": "unsafe"}),
        **({"msg": record.text} if text else {}),
    }
    pairs = " ".join(f"{key}={_cef_value(value)}" for key, value in extension.items() if value)
    return f"CEF:0|{'|'.join(map(_cef_head, head))}|{severity}|{pairs}"


def _labelled(number: int, label: str, value: str) -> dict[str, str]:
    return {f"cs{number}": value, f"cs{number}Label": label} if value else {}


def _cef_head(value: str) -> str:
    return _one_line(value).replace("\\", "\\\\").replace("|", "\\|")


def _cef_value(value: str) -> str:
    value = value.replace("\\", "\\\\").replace("=", "\\=")
    return _one_line(value.replace("\r\n", "\\n").replace("\n", "\\n").replace("\r", "\\n"))


def _one_line(value: str) -> str:
    """A text without control characters and lone surrogates: nothing in it ends or forges a line."""
    kept = "".join(char if char.isprintable() else " " for char in value)
    return kept.encode("utf-8", "replace").decode()


def _json(value: Any) -> bytes:
    """JSON in ASCII: surrogates and control characters are escaped."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii")
