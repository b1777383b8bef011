"""guardproxy: a reverse proxy in front of a chat LLM that judges every user turn and every reply."""

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
    """Judge the last turn of `chat` by the default policy of the configuration file `config`.

    A message is a mapping of `role` and `content`. The role of the last message decides which side's rules hold, unless
    `side` does. The guard is loaded at the first call and kept for later ones. Raises ConfigError for a mistake in the
    configuration or a model that cannot be loaded, Unreadable for a malformed chat, GuardUnavailable if the guard gives
    no verdict.
    """
    # Imported here so that `import guardproxy` stays light.
    from guardproxy.moderation import moderate as judge

    return judge(chat, side=side, config=config)
