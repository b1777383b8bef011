"""What of a record reaches the sinks: every string of it is masked, by the rule `audit.text`.

A field without an entry in `_RULES` is masked as a name from the configuration. So a new field is never stored in the
clear by omission.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache, lru_cache
from typing import Any, Final, get_args

from guardproxy.observe.masking import (
    INFERRED,
    TextRule,
    apply_text_rule,
    mask_credentials,
    mask_emails,
    mask_personal_data,
    short_hash,
)
from guardproxy.types import Coverage, Finding, Origin, PartKind, Reason, Record, ReplyInfo, Role

NOT_STORED: Final = "[not stored]"
_PATH_CHARACTERS: Final = 120  # the most characters of a part's path in a record
_MASKED_CHARACTERS: Final = 1000  # of a path, before it is cut: no piece of a masked text remains at the cut

_GENERATED: Final = re.compile(r"[0-9a-f,]{0,200}")
_SHORT_HASH: Final = re.compile(rf"(?:{INFERRED})?[0-9a-f]{{16}}")
_NAME: Final = re.compile(r"[\w.:/+@*-]{1,120}")
_STEP: Final = re.compile(r"\[\d{1,5}\]|[^.\[\]]+|[.\[\]]")
# The keys of the protocols that stand in most paths. Any other key may have been chosen by a client.
_KEYS: Final = frozenset(
    {
        *("annotations", "arguments", "audio", "bytes", "candidates", "choices", "citations", "content"),
        *("contents", "custom", "data", "delta", "description", "detail", "document", "documents", "error"),
        *("file", "filename", "function", "functionCall", "functionResponse", "function_call", "functions"),
        *("id", "image", "image_url", "images", "inlineData", "input", "input_audio", "input_text"),
        *("instructions", "json_schema", "logprobs", "message", "messages", "model", "name", "output"),
        *("output_text", "parameters", "parts", "prediction", "prompt", "properties", "reasoning"),
        *("reasoning_content", "refusal", "response", "response_format", "role", "schema", "source"),
        *("status", "suffix", "summary", "system", "systemInstruction", "text", "thinking", "title"),
        *("tool_calls", "toolUse", "tool_use", "tools", "top_logprobs", "transcript", "type", "url"),
    }
)
# The notes that name no content of a request. The note on an opaque part may quote a type or a key of it.
_NOTES: Final = frozenset(
    {
        "",
        "guard unavailable",
        "policy: a text of guardproxy itself is not judged",
        *(f"policy: role {role} is not judged" for role in get_args(Role)),
        *(f"policy: {kind} is not judged" for kind in get_args(PartKind)),
    }
)

# The note on a text in languages that the guard does not read (`policy.language_note`). No wire makes such a note.
_LANGUAGES: Final = re.compile(r"language: (?:[a-z]{2}|other)(?:, (?:[a-z]{2}|other))*")


def masked_record(record: Record, rule: TextRule) -> Record:
    """The record that sinks may see.

    Credentials are masked in all strings under every rule, personal data in the strings that a client can choose under
    `redacted`, `hash` and `none`. Under `hash` and `none` no text of a client or model remains beside the hash: errors
    are left out, paths keep only the protocols' own keys, notes only fixed texts, and findings have no labels.
    """
    masked: Record = _masked(record, rule)
    return replace(masked, exact=masked.text == record.text != "" and not record.late)


def _masked(value: Any, rule: TextRule) -> Any:
    """A dataclass, or a tuple of them, with every string masked."""
    if isinstance(value, tuple):
        return tuple(_masked(item, rule) for item in value)
    if not is_dataclass(value) or isinstance(value, type):
        return _configured(value, rule) if isinstance(value, str) else value
    changes: dict[str, Any] = {}
    for name, mask in _plan(type(value)):
        before = getattr(value, name)
        if isinstance(before, str):
            after: Any = mask(before, rule)
        else:
            after = _masked(before, rule) if isinstance(before, tuple) or is_dataclass(before) else before
        if after is not before:
            changes[name] = after
    return replace(value, **changes) if changes else value


@cache
def _plan(kind: Any) -> tuple[tuple[str, Callable[[str, TextRule], str]], ...]:
    """The fields of a dataclass that may hold strings, each with the rule for its string."""
    named = [field.name for field in fields(kind) if field.type not in (bool, int, float)]
    return tuple((name, _RULES.get((kind, name), _configured)) for name in named)


def _cached(mask: Callable[[str, TextRule], str]) -> Callable[[str, TextRule], str]:
    """Cache the masked form of short names: the same few occur in most records. Clients choose some of the others."""
    known = lru_cache(maxsize=4096)(mask)
    return lambda text, rule: known(text, rule) if len(text) <= 200 else mask(text, rule)


def _generated(text: str, rule: TextRule) -> str:
    """An id or hash that the proxy generates, whose digits may look like a phone number."""
    return text if _GENERATED.fullmatch(text) else _configured(text, rule)


@_cached
def _configured(text: str, rule: TextRule) -> str:
    """A name from the configuration, or an enumerated value."""
    return mask_emails(mask_credentials(text, guess=False))


@_cached
def _address(text: str, rule: TextRule) -> str:
    """A name from the configuration that may contain a key of unknown format."""
    return mask_emails(mask_credentials(text))


def _client_text(text: str, rule: TextRule) -> str:
    """A short text that may quote a client."""
    if rule == "full":
        return mask_credentials(text)
    if rule == "redacted":
        return mask_personal_data(text)
    return NOT_STORED if text else ""


@_cached
def _client_name(text: str, rule: TextRule) -> str:
    """A name that a client chooses. Without texts, only what has the form of a name is stored."""
    if rule == "full":
        return mask_credentials(text)
    if rule in ("hash", "none") and text and not _NAME.fullmatch(text):
        return NOT_STORED
    return mask_personal_data(text)


def _identity(text: str, rule: TextRule) -> str:
    """An end user or a session. One that must be masked is hashed instead, so that no two of them become the same."""
    if _SHORT_HASH.fullmatch(text) or _client_name(text, rule) == text:
        return text
    return short_hash(text.encode(errors="surrogatepass"))


@_cached
def _service_id(text: str, rule: TextRule) -> str:
    """An id that a service has generated: it looks as random as a credential of unknown format."""
    if rule in ("hash", "none") and text and not _NAME.fullmatch(text):
        return NOT_STORED
    return mask_emails(mask_credentials(text, guess=False))


@lru_cache(maxsize=4096)
def _known_path(text: str, rule: TextRule) -> str:
    if rule in ("hash", "none"):
        steps = _STEP.findall(text)
        path = "".join(step if step[0] in ".[]" or step in _KEYS else "*" for step in steps)
    else:
        path = _client_text(text, rule)
    return path if len(path) <= _PATH_CHARACTERS else f"{path[:_PATH_CHARACTERS]}…"


def _path(text: str, rule: TextRule) -> str:
    """The path of a part, cut: it contains keys that a client chooses, which may be long and may be text."""
    return _known_path(text[:_MASKED_CHARACTERS], rule)


def _note(text: str, rule: TextRule) -> str:
    if text in _NOTES or _LANGUAGES.fullmatch(text):
        return text
    return _client_text(text, rule) if rule in ("full", "redacted") else "opaque"


@_cached
def _label(text: str, rule: TextRule) -> str:
    """A guard's own name for a finding: for some findings it quotes the text."""
    return _client_text(text, rule) if rule in ("full", "redacted") else ""


_RULES: Final[Mapping[tuple[type, str], Callable[[str, TextRule], str]]] = {
    (Record, "id"): _generated,
    (Record, "exclusion"): _generated,
    (Record, "text"): apply_text_rule,
    (Record, "error"): _client_text,
    (Origin, "request_id"): _generated,
    (Origin, "client"): _generated,
    (Origin, "user"): _identity,
    (Origin, "session"): _identity,
    (ReplyInfo, "id"): _service_id,
    (ReplyInfo, "model"): _client_name,
    (Origin, "model"): _client_name,
    (Origin, "upstream"): _address,
    (Origin, "route"): _address,
    (Coverage, "path"): _path,
    (Coverage, "why"): _note,
    (Finding, "label"): _label,
    (Finding, "category"): _client_name,
    (Reason, "category"): _client_name,
}
