"""One file or folder per chat protocol; each defines `wire: Wire`."""

import re

REGISTRY: dict[str, str] = {
    "anthropic_messages": "guardproxy.wires.anthropic_messages:wire",
    "gemini": "guardproxy.wires.gemini:wire",
    "ollama": "guardproxy.wires.ollama:wire",
    "ollama_embed": "guardproxy.wires.ollama_embed:wire",
    "openai_chat": "guardproxy.wires.openai_chat:wire",
    "openai_completions": "guardproxy.wires.openai_completions:wire",
    "openai_embeddings": "guardproxy.wires.openai_embeddings:wire",
    "openai_responses": "guardproxy.wires.openai_responses:wire",
}

# The protocols that turn texts into vectors: no reply has a text, and no model is asked for one.
VECTORS = ("ollama_embed", "openai_embeddings")

# Whose protocol a path belongs to that no wire reads: the first pattern that matches its start decides. OpenAI's API is
# also served under /api (Open WebUI, OpenRouter) and under /v1beta/openai (Gemini).
_PROTOCOLS: tuple[tuple[str, str], ...] = (
    (r"/v1beta/openai/|/api/(?:v1/|chat/completions|completions|responses)", "openai_chat"),
    (r"/api/", "ollama"),
    (r"(?:/anthropic)?/v1/messages", "anthropic_messages"),
    (r"/v1(?:alpha|beta\d?)/|/v1/projects/", "gemini"),
    (r"/v1/(?:models|tunedModels)/[^/]+:\w*(?:Contents?|Tokens|[pP]redict)$", "gemini"),
)


def protocol_of(path: str) -> str:
    """The name of the wire in whose protocol clients of `path` expect errors; OpenAI's if no other is known."""
    return next((name for pattern, name in _PROTOCOLS if re.match(pattern, path)), "openai_chat")
