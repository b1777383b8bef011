"""Which paths a list names, and the spellings of an endpoint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import ConfigError
from guardproxy.registry import load
from guardproxy.settings.model_paths import PASS_PATHS, PATH_PRESETS, PathSettings
from guardproxy.web.paths import AmbiguousPath, NotGuarded, PathList, check_path, spellings
from guardproxy.wires import REGISTRY
from tests.web.kit import ALLOW

CHAT = ("/chat/completions", "/v1/chat/completions", "/api/chat/completions", "/api/v1/chat/completions")
CHAT += ("/openai/v1/chat/completions", "/openai/deployments/d/chat/completions")


def all_spellings(name: str, path: str) -> set[str]:
    """The path and its other spellings, by the wire's claims."""
    wire = load(name, REGISTRY, "wire")
    return {path, *spellings(path, lambda other: wire.claims("POST", other))}


@pytest.mark.parametrize("path", CHAT)
def test_chat_has_one_canonical_path(path: str) -> None:
    """Every path of OpenAI's chat endpoint counts as the canonical path, and no other endpoint does."""
    assert "/v1/chat/completions" in all_spellings("openai_chat", path)
    assert "/v1/completions" not in all_spellings("openai_chat", path)


@pytest.mark.parametrize(
    ("name", "path", "canonical"),
    [
        ("openai_completions", "/openai/deployments/d/completions", "/v1/completions"),
        ("openai_responses", "/api/responses", "/v1/responses"),
        ("anthropic_messages", "/anthropic/v1/messages", "/v1/messages"),
        ("gemini", "/v1/models/g:generateContent", "/v1beta/models/g:generateContent"),
        (
            "gemini",
            "/v1/projects/p/locations/l/publishers/google/models/g:streamGenerateContent",
            "/v1beta/models/g:streamGenerateContent",
        ),
    ],
)
def test_other_endpoints_have_one_canonical_path(name: str, path: str, canonical: str) -> None:
    """The same for the other protocols."""
    assert canonical in all_spellings(name, path)


def test_an_endpoint_without_other_paths_has_no_other_spelling() -> None:
    """Ollama's paths are themselves only."""
    assert all_spellings("ollama", "/api/chat") == {"/api/chat"}


@pytest.mark.parametrize(
    ("path", "listed"),
    [
        ("/v1/models/m", True),
        ("/v1/models/", True),
        ("/v1/models/x:streamGenerateContent", False),
        ("/v1/models/x:generateContent", False),
        ("/v1/models/a/b", False),
        ("/v1/models/a\n/b", False),
        ("/v1/modelsx", False),
        ("/V1/models/m", False),
        ("/v1/models/a%2fb", False),
    ],
)
def test_a_star_stays_within_a_segment(path: str, listed: bool) -> None:
    """A star covers neither deeper paths nor methods after a colon."""
    assert PathList(["GET /v1/models/*"]).names("GET", path) is listed
    assert PathList(["GET /v1/models/**"]).names("GET", path) is (path.startswith("/v1/models/") and "%" not in path)


def test_a_refusal_has_no_gaps() -> None:
    """In a wide list a star is any text."""
    assert PathList(["POST /v1/*"], wide=True).names("POST", "/v1/chat/completions")


@given(st.text(st.sampled_from("ab/:*[]?!.-\n"), max_size=12))
def test_a_pattern_without_stars_is_itself(text: str) -> None:
    """Only stars are special in a pattern."""
    pattern = "/" + text.replace("*", "")
    assert PathList([f"GET {pattern}"]).names("GET", pattern)
    assert not PathList([f"GET {pattern}"]).names("GET", pattern + "x")


@pytest.mark.parametrize("allow", [PASS_PATHS, ALLOW])
@given(st.sampled_from(sorted(REGISTRY)), st.sampled_from(["/v1", "/v1beta", "/api", "/v1/models/a/b", ""]), st.data())
def test_the_usual_list_allows_no_chat(allow: tuple[str, ...], name: str, prefix: str, data: st.DataObject) -> None:
    """The usual lists have no request that generates text. A GET of a model is in them, and no wire reads it."""
    method = data.draw(st.sampled_from(["generateContent", "streamGenerateContent", "predict", "rawPredict", "chat"]))
    listed = PathList(allow)
    for path in (f"{prefix}/models/x:{method}", f"{prefix}/x/y:{method}", f"{prefix}/models/a/b/c:{method}"):
        assert listed.names("GET", path) is path.startswith("/v1/models/")
        assert not listed.names("POST", path)
        assert not load(name, REGISTRY, "wire").claims("GET", path)


@pytest.mark.parametrize("model", ["gpt-4o", "llama3:8b", "ft:gpt-4o:org::id", "org/name", "org/name:tag"])
def test_a_description_of_a_model_passes_whatever_its_name(model: str) -> None:
    """Names of models contain colons and slashes. A POST of the same path is not in the list."""
    listed = PathList(PASS_PATHS)
    assert listed.names("GET", f"/v1/models/{model}")
    assert listed.names("HEAD", f"/v1/models/{model}")
    assert not listed.names("POST", f"/v1/models/{model}")
    assert not listed.names("DELETE", f"/v1/models/{model}")


def test_an_entry_has_a_form() -> None:
    """An entry of another form is a configuration error."""
    for entry in ("/v1/models", "get /x", "GET x"):
        with pytest.raises(ConfigError):
            PathList([entry])


@pytest.mark.parametrize(
    ("method", "path", "named"),
    [
        ("GET", "/v1/models", True),
        ("HEAD", "/v1/models", True),
        ("OPTIONS", "/v1/models", True),
        ("POST", "/v1/models", False),
        ("POST", "/v1/embeddings", True),
        ("HEAD", "/v1/embeddings", False),
        ("OPTIONS", "/v1/embeddings", True),
        ("GET", "/v1/other", False),
        ("OPTIONS", "/v1/other", False),
        ("GET", "/v1/%6dodels", False),
    ],
)
def test_methods_of_a_list(method: str, path: str, named: bool) -> None:
    """One matching entry is enough; HEAD goes with GET, OPTIONS with any method."""
    assert PathList(["GET /v1/models", "POST /v1/embeddings"]).names(method, path) is named


def test_an_ambiguous_path_is_an_error_of_its_own() -> None:
    """A path that servers resolve differently is refused by name; an ordinary one passes."""
    check_path("/v1/models/a.b")
    for path in ("/v1//models", "/v1/../models", "/v1/models;x", "/v1/models\\x", "/v1/models/."):
        with pytest.raises(AmbiguousPath, match="empty or dot segment") as refused:
            check_path(path)
        assert (refused.value.status, refused.value.code) == (400, "ambiguous_path")


def test_a_path_that_is_not_guarded_is_not_found() -> None:
    """The error has the status and the code that clients know."""
    error = NotGuarded("no")
    assert (error.status, error.code) == (404, "path_not_guarded")


def test_every_version_is_a_spelling() -> None:
    """Each tail of a path is spelled without a version and with each of them."""
    found = spellings("/openai/chat", lambda _: True)
    tails = ("/openai/chat", "/chat")
    assert set(found) == {version + tail for tail in tails for version in ("", "/v1", "/v1beta", "/v1alpha")} - {
        "/openai/chat"
    }


def test_presets_add_to_what_passes() -> None:
    """A preset's endpoints pass beside the usual ones. No wire claims them, and files of chats have no preset."""
    settings = PathSettings(presets=("files", "audio"))
    listed = PathList(settings.allowed)
    assert listed.names("GET", "/v1/models")
    assert listed.names("POST", "/v1/files")
    assert listed.names("POST", "/v1/audio/speech")
    assert not listed.names("POST", "/v1/images/generations")
    every = PathList(PathSettings(presets=("files", "images", "audio")).allowed)
    assert not any(every.names("POST", path) for path in ("/v1/batches", "/v1/fine_tuning/jobs", "/v1/threads"))
    for entry in (entry for entries in PATH_PRESETS.values() for entry in entries):
        method, _, path = entry.partition(" ")
        assert not any(load(name, REGISTRY, "wire").claims(method, path.replace("*", "x")) for name in REGISTRY)
