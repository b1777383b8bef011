"""One file or folder per chat protocol; each defines `wire: Wire`."""

REGISTRY: dict[str, str] = {
    "anthropic_messages": "guardproxy.wires.anthropic_messages:wire",
    "gemini": "guardproxy.wires.gemini:wire",
    "ollama": "guardproxy.wires.ollama:wire",
    "openai_chat": "guardproxy.wires.openai_chat:wire",
    "openai_completions": "guardproxy.wires.openai_completions:wire",
    "openai_responses": "guardproxy.wires.openai_responses:wire",
}
