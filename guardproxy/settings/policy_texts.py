"""Read the files of policy texts that guards name, for the families whose models are given one."""

from pathlib import Path
from typing import Final

from guardproxy.settings.named_files import content, named_file, reported
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath

FAMILIES: Final = ("gpt_oss_safeguard", "policy_text")
"""The families whose models are given a policy text and answer with a label."""
CHATS: Final = (*FAMILIES, "nemotron")
"""The families whose models are asked in the chat of a server and answer in words."""
_MOST_BYTES: Final = 100_000


def gives_labels(guard: Node) -> bool:
    """Whether a guard answers with labels."""
    family = guard.get("family")
    return family is not None and family.text() in FAMILIES


def answers_in_chat(guard: Node) -> bool:
    """Whether a guard's model is asked in the chat of a server."""
    family = guard.get("family")
    return family is not None and family.text() in CHATS


def read_policy_texts(root: Node, folder: Path) -> list[Problem]:
    """Put the texts of the files in the place of their names, and return the mistakes.

    Names are relative to `folder`, that of the configuration.
    """
    guards = root.get("guards")
    found: list[tuple[SettingPath, Node | None]] = [(("guard",), root.get("guard"))]
    found += [(("guards", name), guard) for name, guard in (guards.entries() if guards else [])]
    problems = [_read((*path, "options", "policy"), guard, folder) for path, guard in found if guard]
    return [problem for problem in problems if problem]


def _read(path: SettingPath, guard: Node, folder: Path) -> Problem | None:
    node = guard.get("options", "policy")
    if node is None or not gives_labels(guard):
        return None
    name = named_file(node)
    if name is None:  # the text itself would make a mistyped name the policy
        return reported(node, path, 'must name a file: write "file:NAME", relative to this file')
    try:
        text = content(folder / name, _MOST_BYTES)
    except ValueError as error:
        return reported(node, path, str(error))
    if not text.strip():
        return reported(node, path, f"{folder / name}: is empty; write the policy into it")
    node.value = text
    return None
