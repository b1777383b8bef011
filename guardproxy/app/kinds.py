"""What kind a guard of the configuration is: where its verdicts come from."""

from guardproxy import families
from guardproxy.settings import GuardSettings, Settings


def is_service(guard: GuardSettings) -> bool:
    """Whether the guard is a moderation service, called from here or from its replicas."""
    return guard.service is not None or guard.family in families.SERVICES


def has_model(guard: GuardSettings) -> bool:
    """Whether the guard reads texts with a model, here or in its replicas: it is no service and no finder."""
    return not is_service(guard) and not is_finder(guard)


def is_finder(guard: GuardSettings) -> bool:
    """Whether the guard looks for places in a text, such as matches of patterns, without a model."""
    return guard.family in families.FINDERS


def gives_labels(guard: GuardSettings) -> bool:
    """Whether the guard answers with labels, 0 or 1, and not with probabilities."""
    return guard.family in families.LABELS


def answers_in_chat(guard: GuardSettings) -> bool:
    """Whether the guard's model is asked in the chat of a server, and answers in words."""
    return guard.family in families.CHATS


def is_remote(guard: GuardSettings) -> bool:
    """Whether replicas judge."""
    return guard.runner != "local"


def runs_model(guard: GuardSettings) -> bool:
    """Whether the guard's model runs on this machine, in a process of the proxy."""
    return has_model(guard) and not is_remote(guard)


def label_note(settings: Settings) -> str:
    """What `validate` says of guards that answer with labels; empty if there is none."""
    named = [name for name, member in settings.members.items() if gives_labels(member.guard)]
    if not settings.members and gives_labels(settings.guard):
        named = [settings.guard.model]
    if not named:
        return ""
    return (
        f"guard {', '.join(named)}: gives labels, 0 or 1, and no probability; for its verdicts every threshold above 0 "
        "means the same, and the most severe rule of a category holds"
    )
