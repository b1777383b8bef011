"""Check the replicas of a guard: their addresses and certificates, and what has no effect with them."""

from collections.abc import Iterator

from guardproxy.settings.checks import tls
from guardproxy.settings.checks.upstream import url_error
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath

_HTTP = "http"
_UNIX = "unix:"
# What the replicas' own file says of the model.
_OF_THE_MODEL = ("device", "dtype", "max_batch_tokens", "max_wait_s", "threads")


def replicas(path: SettingPath, guard: Node, *, is_service: bool) -> Iterator[Problem]:
    """Every mistake in `runner` and `replicas` of the guard at `path`."""
    runner, section = guard.get("runner"), guard.get("replicas")
    is_http = runner is not None and runner.text() == _HTTP
    if section is not None and section.value is None:
        section = None
    if not is_http:
        if section is not None:
            message = "has no effect without runner: http; set that or remove this"
            yield Problem(section.key_position, (*path, "replicas"), message)
        return
    if is_service:
        message = "has no effect on a family that is a service; remove it"
        yield Problem(runner.key_position if runner else guard.position, (*path, "runner"), message)
    if section is None:
        message = "is missing; write replicas: {urls: [...]} with the addresses of `guardproxy guard`"
        yield Problem(guard.key_position, (*path, "replicas"), message)
        return
    for key in _OF_THE_MODEL:
        if node := guard.get(key):
            message = "has no effect, because the model runs in the replicas; set it in their file"
            yield Problem(node.key_position, (*path, key), message)
    yield from _addresses((*path, "replicas"), section)
    yield from tls.upstream_tls(section, (*path, "replicas"))
    first, longest = section.get("eject", "first_s"), section.get("eject", "longest_s")
    if first and longest and (first.number() or 0) > (longest.number() or 0):
        message = "is less than first_s; make it the longer of both"
        yield Problem(longest.position, (*path, "replicas", "eject", "longest_s"), message)


def _addresses(path: SettingPath, section: Node) -> Iterator[Problem]:
    urls = section.get("urls")
    seen: set[str] = set()
    for index, node in urls.elements() if urls else []:
        text, place = node.text() or "", (*path, "urls", index)
        if text.rstrip("/") in seen:
            yield Problem(node.position, place, "is already listed; remove it")
        elif text and (message := _address_error(text)):
            yield Problem(node.position, place, message)
        seen.add(text.rstrip("/"))
    if section.get("tls") and urls and not any((node.text() or "").startswith("https:") for _, node in urls.elements()):
        message = "has no effect, because no address begins with https://; remove it"
        yield Problem((section.get("tls") or section).key_position, (*path, "tls"), message)


def _address_error(text: str) -> str | None:
    if text.startswith(_UNIX):
        is_path = text.startswith(f"{_UNIX}/") and text.isprintable()
        return None if is_path else f"must be {_UNIX} and the path of a socket, such as {_UNIX}/run/guard.sock"
    message = url_error(text)
    return message.replace("upstream.key", "replicas.key") if message else None
