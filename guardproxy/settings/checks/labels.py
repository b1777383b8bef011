"""Check what makes no sense of guards that answer with labels: what needs a probability."""

from collections.abc import Iterator, Sequence

from guardproxy.settings.policy_texts import answers_in_chat, gives_labels
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath

_NO_PROBABILITY = "answers with labels, 0 or 1, and not with probabilities"


def alone(guard: Node) -> Iterator[Problem]:
    """The mistakes of a guard that combines no others."""
    calibration = guard.get("calibration")
    if gives_labels(guard) and calibration and calibration.value is not None:
        message = f"has no effect, because the family {_NO_PROBABILITY}; remove it"
        yield Problem(calibration.key_position, ("guard", "calibration"), message)


def combined(guard: Node, named: Sequence[tuple[SettingPath, Node]], guards: Node | None) -> Iterator[Problem]:
    """The mistakes of a guard that combines those that are `named`; `guards` has their sections."""
    defined = dict(guards.entries()) if guards else {}
    sections = [(path, node, defined.get(node.text() or "", guard)) for path, node in named]
    mean = guard.get("mean")
    for path, node, section in sections:
        if path == ("guard", "cascade", "first") and gives_labels(section):
            message = f"{node.text()!r} {_NO_PROBABILITY}, so it is never unsure; name it as second"
            yield Problem(node.position, path, message)
        if mean and mean.value is not None and answers_in_chat(section):
            message = (
                f"cannot be formed: the categories of {node.text()!r} are labels, 0 or 1, not probabilities; remove "
                "mean, so that the greatest counts"
            )
            yield Problem(mean.key_position, ("guard", "mean"), message)
            return
