"""One file per chat protocol. Each ends with `wire: Wire`."""

REGISTRY: dict[str, str] = {
    "anthropic_messages": "guardproxy.wires.anthropic_messages:wire",
    "openai_responses": "guardproxy.wires.openai_responses:wire",
    "openai_chat": "guardproxy.wires.openai_chat:wire",
    "openai_completions": "guardproxy.wires.openai_completions:wire",
}
