"""What of a record reaches the sinks: every string of it is masked, by the rule `audit.text`.

A field without an entry in `_RULES` is masked as a name from the configuration. So a new field is never stored in the
clear by omission.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache, lru_cache
from operator import attrgetter, is_
from types import NoneType
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin, get_type_hints

from guardproxy.observe.masking import (
    INFERRED,
    TextRule,
    apply_text_rule,
    mask_credentials,
    mask_emails,
    mask_personal_data,
    short_hash,
)
from guardproxy.types import Coverage, Finding, Origin, PartKind, Reason, Record, ReplyInfo, Role, Verdict

NOT_STORED: Final = "[not stored]"
_PATH_CHARACTERS: Final = 120  # the most characters of a part's path in a record
_MASKED_CHARACTERS: Final = 1000  # of a path, before it is cut: no piece of a masked text remains at the cut

_SHORT: Final = 200  # the most characters of names whose masked form is cached
# The classes whose strings are the same few in most records: their masked form is cached together.
_REPEATED: Final = frozenset({Finding, Reason, Coverage})

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

# The note on an image that was decoded (`pipeline.images`).
_IMAGE: Final = re.compile(r"image/(?:png|jpeg|gif|webp) \d+x\d+ \d+ bytes sha256:[0-9a-f]{64}")
# The note on a text in languages that the guard does not read (`policy.language_note`). No wire makes such a note.
_LANGUAGES: Final = re.compile(r"language: (?:[a-z]{2}|other)(?:, (?:[a-z]{2}|other))*")


def masked_record(record: Record, rule: TextRule, personal: Callable[[str], str] | None = None) -> Record:
    """The record that sinks may see.

    Credentials are masked in all strings under every rule, personal data in the strings that a client can choose under
    `redacted`, `hash` and `none`. Under `hash` and `none` no text of a client or model remains beside the hash: errors
    are left out, paths keep only the protocols' own keys, notes only fixed texts, findings have no labels, and verdicts
    no rationale. A text beside images is not `exact`: by itself it is another turn. `personal` masks further personal
    data in the text and the rationale, under `redacted`.
    """
    changes = _changes(record, rule)
    if personal is not None and rule == "redacted":
        changes["text"] = apply_text_rule(personal(record.text), rule)
        verdict = record.verdict
        if verdict is not None and verdict.rationale:
            masked = masked_rationale(verdict.rationale, rule, personal)
            changes["verdict"] = replace(changes.get("verdict", verdict), rationale=masked)
    text_alone = not record.late and all(part.kind != "image" for part in record.coverage)
    exact = record.text == changes.get("text", record.text) != "" and text_alone
    return replace(record, **changes, exact=exact)


def masked_rationale(text: str, rule: TextRule, personal: Callable[[str], str] | None = None) -> str:
    """A model's reason as it may be stored, which may quote the text: masked as texts are, and left out with them."""
    return _label(personal(text) if personal is not None and rule == "redacted" else text, rule)


def _masked(value: Any, rule: TextRule) -> Any:
    """A dataclass, or a tuple of them, with every string masked; the same object if that changes nothing."""
    kind: Any = type(value)
    if kind in _REPEATED:
        names = _plan(kind).values(value)
        if sum(map(len, names)) <= _SHORT and _masked_names(kind, names, rule) == names:
            return value
    elif isinstance(value, tuple):
        masked = [_masked(item, rule) for item in value]
        return value if all(map(is_, masked, value)) else tuple(masked)
    elif isinstance(value, str):
        return _configured(value, rule)
    elif not is_dataclass(kind):
        return value
    changes = _changes(value, rule)
    return replace(value, **changes) if changes else value


def _changes(value: Any, rule: TextRule) -> dict[str, Any]:
    """The fields of a dataclass that masking changes, with their new values."""
    kind: Any = type(value)
    plan = _plan(kind)
    changes: dict[str, Any] = {}
    for name, mask, before in zip(plan.names, plan.masks, plan.values(value), strict=True):
        if isinstance(before, str):
            after: Any = mask(before, rule)
            if after != before:
                changes[name] = after
        elif (after := _masked(before, rule)) is not before:
            changes[name] = after
    return changes


@lru_cache(maxsize=4096)
def _masked_names(kind: Any, names: tuple[str, ...], rule: TextRule) -> tuple[str, ...]:
    """The strings of a dataclass whose strings are the same in most records."""
    return tuple(mask(name, rule) for mask, name in zip(_plan(kind).masks, names, strict=True))


class _MaskingPlan(NamedTuple):
    """The fields of a dataclass that may hold strings, each with the rule for its string."""

    names: tuple[str, ...]
    masks: tuple[Callable[[str, TextRule], str], ...]
    values: Callable[[Any], tuple[Any, ...]]


@cache
def _plan(kind: Any) -> _MaskingPlan:
    hints = get_type_hints(kind)
    names = tuple(field.name for field in fields(kind) if _may_hold_text(hints[field.name]))
    masks = tuple(_RULES.get((kind, name), _configured) for name in names)
    if len(names) < 2:  # of one field, `attrgetter` gives no tuple
        return _MaskingPlan(names, masks, lambda value: tuple(getattr(value, name) for name in names))
    return _MaskingPlan(names, masks, attrgetter(*names))


def _may_hold_text(kind: Any) -> bool:
    """Whether a value of this type may be or contain a string: anything but numbers, and tuples of numbers."""
    parts = get_args(kind)
    if parts and get_origin(kind) is not Literal:
        return any(map(_may_hold_text, parts))
    return kind not in (bool, int, float, NoneType, Ellipsis)


def _cached(mask: Callable[[str, TextRule], str]) -> Callable[[str, TextRule], str]:
    """Cache the masked form of short names: the same few occur in most records. Clients choose some of the others."""
    known = lru_cache(maxsize=4096)(mask)
    return lambda text, rule: known(text, rule) if len(text) <= _SHORT else mask(text, rule)


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


def _image(text: str, rule: TextRule) -> str:
    """What an image is, as `pipeline.images` writes it: digits of a hash, which may look like a phone number."""
    return text if not text or _IMAGE.fullmatch(text) else _client_text(text, rule)


@_cached
def _label(text: str, rule: TextRule) -> str:
    """A guard's own name for a finding, or its rationale, which may quote the text."""
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
    (Coverage, "note"): _image,
    (Finding, "label"): _label,
    (Verdict, "rationale"): _label,
    (Finding, "category"): _client_name,
    (Reason, "category"): _client_name,
}
