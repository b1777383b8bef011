"""One file per chat protocol. Each ends with `wire: Wire`."""

REGISTRY: dict[str, str] = {
    "openai_chat": "guardproxy.wires.openai_chat:wire",
    "openai_completions": "guardproxy.wires.openai_completions:wire",
}
