"""What else of a user's turn is judged: its sentences one by one, and the turn behind earlier ones.

Most of these texts were judged in another form already, so each counts from a probability on that the policy sets.
"""

from collections.abc import Sequence
from dataclasses import replace

from guardproxy.offload import computed
from guardproxy.pipeline.thread import joined_text, own_text
from guardproxy.pipeline.turns import SYSTEM_ROLES
from guardproxy.policy import UNSAFE, Policy
from guardproxy.sentences import passages
from guardproxy.toolviews import is_of_image, is_of_tool
from guardproxy.types import Check, Conversation, Message, Part, Side, Verdict
from guardproxy.verdicts import worst
from guardproxy.views import PART

THREAD, SENTENCE = "thread", "sentence"

Named = list[tuple[str, Verdict]]


async def of_sentences(
    message: Message, checks: Sequence[tuple[str, Check]], policy: Policy
) -> list[tuple[str, Check]]:
    """A check of each passage of a user's text and of its views, which `checks` judge; without a context.

    Results of tools are left out. None if the policy does not say from which P(unsafe) on a sentence counts.
    """
    if policy.sentences.unsafe is None or message.role not in ("user", *SYSTEM_ROLES):
        return []
    whole = [(name, own_text(check.turn)) for name, check in checks if not _is_apart(name)]
    found = await computed(sum(len(text) for _, text in whole), _passages, whole)
    known = {check.turn.text for _, check in checks}
    least = policy.calibration.inverse(message.side, UNSAFE, policy.sentences.unsafe)
    return [(name, _alone(message, passage, least)) for passage, name in found.items() if passage not in known]


def _passages(texts: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The passages of texts, given by view, with the names of their views."""
    found: dict[str, str] = {}
    for name, text in texts:
        for passage in passages(text):
            found.setdefault(passage, SENTENCE if name == "text" else f"{name}+{SENTENCE}")
    return found


def of_thread(message: Message, thread: Sequence[str], policy: Policy) -> list[tuple[str, Check]]:
    """The check of a user's text behind those of earlier turns, without a context; none if there is nothing to join."""
    own = own_text(message) if thread else ""
    behind = joined_text((*thread, own), policy.thread.characters) if own else ""
    least = policy.calibration.inverse(message.side, UNSAFE, policy.thread.unsafe)
    return [(THREAD, _alone(message, behind, least))] if behind else []


def counted_readings(verdicts: Named, side: Side, policy: Policy) -> Named:
    """What counts of the verdicts on a message, by view: those on sentences and the thread from their P(unsafe) on.

    The usage of the others counts anyway, as that of one verdict. These readings are the last of the `verdicts`.
    """
    least = {THREAD: policy.thread.unsafe, SENTENCE: policy.sentences.unsafe or 0.0}
    others = [pair for pair in verdicts if _last(pair[0]) not in least]
    if len(others) == len(verdicts):
        return verdicts
    bounds = {step: policy.calibration.inverse(side, UNSAFE, bound) for step, bound in least.items()}
    reread = [(name, verdict, verdict.unsafe >= bounds[_last(name)]) for name, verdict in verdicts[len(others) :]]
    high = [(name, verdict) for name, verdict, counts in reread if counts]
    low = [verdict for _, verdict, counts in reread if not counts]
    return [*others, *high, *([(SENTENCE, replace(worst(low), unsafe=0.0, findings=()))] if low else [])]


def _last(view: str) -> str:
    """The last step of a view's name."""
    return view.rpartition("+")[2]


def _is_apart(view: str) -> bool:
    """Whether a view is no whole text of the message: a part (the text has it as well), a tool's result, an image."""
    return view.partition("+")[0] == PART or is_of_tool(view) or is_of_image(view)


def _alone(message: Message, text: str, least: float) -> Check:
    return Check(
        Conversation((Message(message.role, (Part(message.parts[0].path, text),)),)), message.side, least=least
    )
