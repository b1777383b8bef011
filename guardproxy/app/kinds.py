"""What kind a guard of the configuration is: where its verdicts come from."""

from guardproxy import families
from guardproxy.settings import GuardSettings


def is_service(guard: GuardSettings) -> bool:
    """Whether the guard is a moderation service, called from here or from its replicas."""
    return guard.service is not None or guard.family in families.SERVICES


def is_remote(guard: GuardSettings) -> bool:
    """Whether replicas judge."""
    return guard.runner == "http"


def runs_model(guard: GuardSettings) -> bool:
    """Whether the guard's model runs on this machine, in a process of the proxy."""
    return not is_service(guard) and not is_remote(guard)
