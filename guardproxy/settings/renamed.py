"""Keys of earlier versions of the format: each is a mistake whose message names the new key."""

from collections.abc import Iterator

from guardproxy.settings.yaml_tree import Node, Problem, SettingPath

_NEW_KEYS = {"cheap": "first", "dear": "second"}
_TLS_KEYS = {"verify": "verify", "ca_file": "ca"}


def rename_keys(root: Node) -> list[Problem]:
    """Report the old keys of the document, and move their values to the new keys.

    The values are moved so that the later checks neither miss the new keys nor overlook mistakes in the values.
    """
    renamed = [problem for path, section in _cascades(root) for problem in _rename(path, section)]
    return [*renamed, *_upstream_tls(root), *_unsafe_methods(root)]


def _cascades(root: Node) -> Iterator[tuple[SettingPath, Node]]:
    """The `cascade` sections of all guards."""
    guards = root.get("guards")
    names = [name for name, _ in guards.entries()] if guards else []
    for path in (("guard", "cascade"), *(("guards", name, "cascade") for name in names)):
        section = root.get(*path)
        if section is not None:
            yield path, section


def _rename(path: SettingPath, section: Node) -> Iterator[Problem]:
    if not isinstance(section.value, dict):
        return
    for old, new in _NEW_KEYS.items():
        node = section.value.pop(old, None)
        if node is not None:
            yield Problem(node.key_position, (*path, old), f"this key is now called {new}; rename it")
            section.value.setdefault(new, node)


def _upstream_tls(root: Node) -> Iterator[Problem]:
    """The TLS options of the upstream, which stood beside its address."""
    section = root.get("upstream")
    if section is None or not isinstance(section.value, dict):
        return
    for old, new in _TLS_KEYS.items():
        node = section.value.pop(old, None)
        if node is not None:
            yield Problem(node.key_position, ("upstream", old), f"this key is now upstream.tls.{new}; move it")
            tls = section.value.setdefault("tls", Node({}, node.position, node.key_position))
            if isinstance(tls.value, dict):
                tls.value.setdefault(new, node)


def _unsafe_methods(root: Node) -> Iterator[Problem]:
    """The switch that is now one of the endings of `repeat_after`."""
    retries = root.get("upstream", "retries")
    node = retries.value.pop("unsafe_methods", None) if retries and isinstance(retries.value, dict) else None
    if node is not None:
        message = "this key is gone; write repeat_after: unknown for true, and nothing for false"
        yield Problem(node.key_position, ("upstream", "retries", "unsafe_methods"), message)
