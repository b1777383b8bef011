"""What may take the place of a streamed reply of which the client has nothing yet."""

from collections.abc import Callable, Sequence

from guardproxy.frozen import frozen
from guardproxy.types import Refuse, ReplyInfo


class RefusedBeforeStart(Exception):
    """The reply is refused and nothing of it was sent, so the answer can be an error instead of a stream."""

    def __init__(self, refusal: Refuse) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class AskAgain(Exception):
    """The reply is withheld and nothing of it was sent, so another one may be asked for: `refusal.again` says how.

    Whoever cannot do so answers with the refusal. `usage` are the tokens that the model has read and written.
    """

    def __init__(self, refusal: Refuse, usage: tuple[int, int]) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.usage = usage


def asking_again(refusals: Sequence[Refuse], info: ReplyInfo) -> AskAgain | None:
    """Ask for another whole reply in the place of one with these refusals, if each allows it."""
    if not refusals or not all(refusal.again for refusal in refusals):
        return None
    return AskAgain(refusals[0], (info.input_tokens or 0, info.output_tokens or 0))


def _no() -> bool:
    return False


@frozen
class InPlace:
    """What the caller can still do while a stream has sent nothing, and wants to know of it.

    `try_refuse_with_error` returns True if no byte was sent, comments included, and the answer will be an error.
    `may_ask_again` returns True if another reply may be asked for. `refused` is called if a choice of the stream ends
    with a refusal.
    """

    try_refuse_with_error: Callable[[], bool] = _no
    may_ask_again: Callable[[], bool] = _no
    refused: Callable[[], object] = _no


NOTHING = InPlace()
