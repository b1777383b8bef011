"""What routes ask of a request, and the spellings that they take for the same. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import field

from guardproxy.frozen import frozen


@frozen
class Asked:
    """What routes ask of a request.

    `paths` are all spellings of its path, `client` and `user` as records show them, `protocol` is the name of the wire.
    The names in `headers` are in lower case.
    """

    paths: Collection[str]
    model: str = ""
    client: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    protocol: str = ""
    method: str = "POST"
    user: str = ""


def folded(text: str) -> str:
    """A text as routes compare it: without case and outer white space."""
    return text.strip().casefold()


def model_names(model: str) -> set[str]:
    """The spellings that servers take for the same model.

    Ollama completes a name with its registry, `library/` and the tag `latest`; Gemini's names may begin with `models/`.
    """
    name = folded(model)
    bare = name.removeprefix("registry.ollama.ai/").removeprefix("library/").removeprefix("models/")
    bare = bare.removesuffix(":latest")
    return {name, bare, f"models/{bare}", f"{bare}:latest"}
