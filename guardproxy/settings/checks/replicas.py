"""Check the replicas of a guard: their addresses and certificates, and what has no effect with them."""

from collections.abc import Iterator

from guardproxy.settings.checks import tls
from guardproxy.settings.checks.upstream import url_error
from guardproxy.settings.policy_texts import gives_labels
from guardproxy.settings.yaml_tree import Node, Problem, SettingPath

_LOCAL = "local"
_OPENAI = "openai"
_UNIX = "unix:"
# What the replicas' own file says of the guard.
_THEIRS = ("device", "dtype", "max_batch_tokens", "max_wait_s", "threads", "service")


def is_remote(guard: Node) -> bool:
    """Whether replicas judge for a guard."""
    runner = guard.get("runner")
    return runner is not None and runner.text() not in {None, _LOCAL}


def is_openai(guard: Node) -> bool:
    """Whether a guard's model runs on servers with OpenAI's completions API."""
    runner = guard.get("runner")
    return runner is not None and runner.text() == _OPENAI


def local_only(path: SettingPath, guard: Node) -> Iterator[Problem]:
    """The mistakes of a guard at `path` that needs no model, and so no replicas."""
    for key in ("runner", "replicas", "completions"):
        if (node := guard.get(key)) and node.value is not None:
            message = "has no effect, because the family needs no model; remove it"
            yield Problem(node.key_position, (*path, key), message)


def remote(path: SettingPath, guard: Node) -> Iterator[Problem]:
    """The mistakes of the guard at `path`, for which replicas judge, in options that are theirs."""
    for key in _THEIRS:
        if (node := guard.get(key)) and node.value is not None:
            where = "the servers' own options say it; remove it" if is_openai(guard) else "set it in their file"
            yield Problem(node.key_position, (*path, key), f"has no effect, because the replicas judge; {where}")


def replicas(path: SettingPath, guard: Node) -> Iterator[Problem]:
    """Every mistake in `replicas` of the guard at `path`."""
    section = guard.get("replicas")
    if section is None or section.value is None:
        if is_remote(guard):
            whose = "the model's servers" if is_openai(guard) else "`guardproxy guard`"
            message = f"is missing; write replicas: {{urls: [...]}} with the addresses of {whose}"
            yield Problem(guard.key_position, (*path, "replicas"), message)
        return
    if not is_remote(guard):
        message = "has no effect without runner: http or openai; set that or remove this"
        yield Problem(section.key_position, (*path, "replicas"), message)
        return
    yield from _addresses((*path, "replicas"), section)
    yield from tls.upstream_tls(section, (*path, "replicas"))
    first, longest = section.get("eject", "first_s"), section.get("eject", "longest_s")
    if first and longest and (first.number() or 0) > (longest.number() or 0):
        message = "is less than first_s; make it the longer of both"
        yield Problem(longest.position, (*path, "replicas", "eject", "longest_s"), message)


def completions(path: SettingPath, guard: Node, *, no_model: str, chat: bool) -> Iterator[Problem]:
    """The mistakes of the guard at `path` in what the runner `openai` needs.

    `no_model` says why the family has no model that such a server could run; it is empty if it has one. With `chat`
    the model is asked in a chat.
    """
    section, model = guard.get("completions"), guard.get("model")
    if chat and not is_remote(guard):
        node = guard.get("runner") or guard.get("family") or guard
        message = "must be openai, with replicas: the model answers in words, which a server with a chat API generates"
        yield Problem(node.position, (*path, "runner"), message)
    if gives_labels(guard) and section and section.value is not None:
        message = "has no effect, because no token's probability is read; remove it"
        yield Problem(section.key_position, (*path, "completions"), message)
        return
    for key in ("tokenizer", "context_tokens") if chat else ():
        option = section.get(key) if section else None
        if option and option.value is not None:
            message = "has no effect, because the server's chat makes the prompt; remove it"
            yield Problem(option.key_position, (*path, "completions", key), message)
    if not is_openai(guard):
        if section and section.value is not None:
            message = "has no effect without runner: openai; set that or remove this"
            yield Problem(section.key_position, (*path, "completions"), message)
        return
    if no_model:
        node = guard.get("family") or guard.get("runner") or guard
        message = f"{no_model}, and the runner openai needs a language model; choose another family or runner"
        yield Problem(node.position, (*path, "family"), message)
    elif model is None or model.value is None:
        message = "is missing; write the name that the model has on the servers"
        yield Problem(guard.key_position, (*path, "model"), message)


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
