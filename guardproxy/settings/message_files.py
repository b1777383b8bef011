"""Read the files that `block.message` names: one text for each language and country."""

from collections.abc import Iterator
from pathlib import Path

from guardproxy.settings.named_files import content, named_file, reported
from guardproxy.settings.packaged import CRISIS, crisis
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath, in_file_order, read

_MOST_BYTES = 1_000_000
_KEYS = ("reviewed", "sources", "texts")


def read_message_files(root: Node, folder: Path) -> list[Problem]:
    """Put the texts of the files in the place of their names, and return the mistakes.

    Names are relative to `folder`, that of the configuration. A mistake has the place of the file's name in the
    configuration, and its place in the file in the message.
    """
    problems: list[Problem] = []
    policies = root.get("policies")
    for name, policy in policies.entries() if policies else []:
        if (message := policy.get("block", "message")) is None:
            continue
        path: SettingPath = ("policies", name, "block", "message")
        if named_file(message) is not None:
            problems += _read(message, path, folder)
            if isinstance(message.value, dict):  # a single file is for all categories
                below = Node(message.value, message.position, message.key_position)
                message.value = {"*": below}
        else:
            for category, node in message.entries():
                problems += _read(node, (*path, category), folder) if named_file(node) is not None else ()
    return problems


def _read(node: Node, path: SettingPath, folder: Path) -> Iterator[Problem]:
    name = named_file(node) or ""
    file = folder / name
    try:
        text = crisis() if name == CRISIS and not file.exists() else content(file, _MOST_BYTES)
    except ValueError as error:
        yield reported(node, path, str(error))
        return
    tree, problems = read(text)
    mistakes = [problem.render(str(file)) for problem in in_file_order(problems)]
    if tree is not None and not mistakes:
        unknown = [(key, entry.key_position) for key, entry in tree.entries() if key not in _KEYS]
        known = f"unknown key; known: {', '.join(_KEYS)}"
        mistakes = [Problem(position, (key,), known).render(str(file)) for key, position in unknown]
    texts = tree.get("texts") if tree else None
    if not mistakes and (texts is None or not isinstance(texts.value, dict)):
        mistakes = [f"{file}: needs `texts`, a mapping of texts by language and country"]
    if mistakes or texts is None:
        yield from (reported(node, path, mistake) for mistake in mistakes)
        return
    node.value = {key: Node(entry.value, node.position, node.position) for key, entry in texts.entries()}
