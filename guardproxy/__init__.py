"""guardproxy: a reverse proxy that judges what goes into a chat LLM and what comes out of it."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from guardproxy.moderation import Moderation

__version__ = "0.1.0"
__all__ = ["__version__", "moderate"]


def moderate(
    chat: Sequence[Mapping[str, str]],
    *,
    side: Literal["user", "assistant"] | None = None,
    config: str | os.PathLike[str] | None = None,
) -> "Moderation":
    """Judge the last turn of `chat`, messages of `role` and `content`, by the default policy of `config`.

    The turn is judged as the user's or the assistant's by its role, or as `side` says. The guard is loaded at the first
    call and kept for the next. Raises ConfigError for a configuration with mistakes or a model that cannot be had,
    Unreadable for a chat of another form, GuardUnavailable where the guard gives no verdict.
    """
    # Imported here so that `import guardproxy` stays light.
    from guardproxy.moderation import moderate as judge

    return judge(chat, side=side, config=config)
