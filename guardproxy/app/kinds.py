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
    guards = {name: member.guard for name, member in settings.members.items()} or {settings.guard.model: settings.guard}
    named = [name for name, guard in guards.items() if answers_in_chat(guard)]
    if not named:
        return ""
    which = "" if any(gives_labels(guards[name]) for name in named) else " of categories"
    what = f"labels{which}, 0 or 1, and no probability"
    return (
        f"guard {', '.join(named)}: gives {what}; for {'these' if which else 'its verdicts'} every threshold above 0 "
        "means the same, and the most severe rule of a category holds"
    )
