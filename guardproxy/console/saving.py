"""The entry in the chain of thresholds that somebody saved."""

import time

import structlog
from sqlalchemy.exc import SQLAlchemyError

from guardproxy.console.rule_changes import changed_rules
from guardproxy.console.thresholds import Edits
from guardproxy.console.visits import Visit
from guardproxy.errors import ConfigError
from guardproxy.policy import Policy, PolicySet
from guardproxy.reviews import PolicyChange

log = structlog.get_logger("guardproxy.console")


async def note(visit: Visit, before: Policy, edits: Edits, saved: PolicySet) -> bool:
    """Record that the visitor changed a policy, and return whether that succeeded.

    The policies are in force in any case, so a store that fails is logged and not an error.
    """
    change = PolicyChange(
        visit.person.name,
        time.time(),
        before.name,
        visit.sent.get("base", ""),
        saved.version,
        before.version,
        saved.policies[before.name].version,
        visit.parts.editor.file,
        changed_rules(before, edits),
    )
    try:
        await visit.parts.store.note_policy_change(change)
    except (ConfigError, SQLAlchemyError, OSError) as error:
        log.error("console_save_unrecorded", name=change.by, version=change.after, error=str(error))
        return False
    return True
