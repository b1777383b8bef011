"""The languages that the guard of a configuration reads: its setting, or those of the model's card."""

from collections.abc import Sequence

from guardproxy.app.kinds import has_model
from guardproxy.settings import GuardSettings, Settings

_ENGLISH = frozenset({"en"})
# The languages in which the model for many languages is trained.
_MANY = frozenset(
    {
        *("ar", "bn", "de", "el", "en", "es", "fr", "hi", "id", "it", "ja"),
        *("jv", "ko", "nl", "pl", "pt", "ru", "sw", "th", "tr", "vi", "zh"),
    }
)
_LLAMA_GUARD_3 = frozenset({"de", "en", "es", "fr", "hi", "it", "pt", "th"})

# The languages of the model cards, by family and, for Llama Guard, by its version. There is no statement for services
# and for Qwen3Guard, whose card has 119 languages and dialects, more than the detector knows.
_FAMILIES = {
    "granite_guardian": _ENGLISH,
    "shieldgemma": _ENGLISH,
    "wildguard": _ENGLISH,
    "llama_guard 1": _ENGLISH,
    "llama_guard 2": _ENGLISH,
    "llama_guard 3": _LLAMA_GUARD_3,
    "llama_guard 3-1b": _LLAMA_GUARD_3,
    "llama_guard 3-11b-vision": _ENGLISH,
    "llama_guard 4": _LLAMA_GUARD_3,
}
# Models whose card says something else than their family's, by the last step of their names in lower case.
_MODELS = {
    "embedded": _ENGLISH,
    "embedded-large": _ENGLISH,
    "embedded-multilingual": _MANY,
    "embedded-small": _ENGLISH,
    "llama-guard-3-11b-vision": _ENGLISH,
    "llama-prompt-guard-2-22m": _ENGLISH,
    "toxic-bert": _ENGLISH,
    "unbiased-toxic-roberta": _ENGLISH,
}


def languages_read(settings: Settings) -> frozenset[str] | None:
    """The languages that the guard reads; None for no statement.

    Guards that are combined read what every guard reads that makes a statement: in a cascade the first guard alone may
    decide, and with `all` each guard has categories that no other guard judges. Guards that are chosen by language read
    what either of them reads, if both make a statement.
    """
    if settings.guard.languages is not None or not settings.members:
        return languages_of_guard(settings.guard)
    stated = [languages_of_guard(member.guard) for member in settings.members.values()]
    return _either(stated) if settings.guard.by_language is not None else _common(stated)


def languages_of_guard(guard: GuardSettings) -> frozenset[str] | None:
    """The languages that a guard which combines no others reads, by its setting or its card; None for no statement."""
    if guard.languages is not None:
        return frozenset(guard.languages) or None
    if not has_model(guard):
        return None
    name = guard.model.rstrip("/").rpartition("/")[2].lower()
    family = f"llama_guard {guard.options.get('version', '1')}" if guard.family == "llama_guard" else guard.family
    return _MODELS.get(name, _FAMILIES.get(family))


def _either(languages: Sequence[frozenset[str] | None]) -> frozenset[str] | None:
    stated = [of_guard for of_guard in languages if of_guard is not None]
    return frozenset.union(*stated) if len(stated) == len(languages) else None


def _common(languages: Sequence[frozenset[str] | None]) -> frozenset[str] | None:
    stated = [of_guard for of_guard in languages if of_guard is not None]
    return frozenset.intersection(*stated) if stated else None
