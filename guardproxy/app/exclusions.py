"""The exclusions of a configuration."""

import hashlib

from guardproxy.durations import instant
from guardproxy.reviews import Exclusion
from guardproxy.settings import Settings


def exclusions_of(settings: Settings) -> list[Exclusion]:
    """Return the exclusions of the configuration. The id of each comes from its text and category."""
    return [
        Exclusion(
            id=hashlib.sha256(f"{one.sha256} {one.category}".encode()).hexdigest()[:12],
            text=one.sha256,
            category=one.category,
            reason=one.reason,
            by=one.by,
            until=instant(one.until),
        )
        for one in settings.audit.exclusions
    ]
