"""Guard families: how a kind of guard model is asked and understood.

A family is data and pure functions. `REGISTRY` maps the name in `guard.family` to the `open_family` of one file;
a user's own family is named as `module:attribute` instead, and needs no line here.
"""

# Those that are asked over HTTP and have no model here.
SERVICES = frozenset({"azure_content_safety", "openai_moderation", "perspective"})

REGISTRY: dict[str, str] = {
    "azure_content_safety": "guardproxy.families.azure_content_safety:open_family",
    "classifier": "guardproxy.families.classifier:open_family",
    "granite_guardian": "guardproxy.families.granite_guardian:open_family",
    "llama_guard": "guardproxy.families.llama_guard:open_family",
    "openai_moderation": "guardproxy.families.openai_moderation:open_family",
    "perspective": "guardproxy.families.perspective:open_family",
    "qwen3guard": "guardproxy.families.qwen3guard:open_family",
    "shieldgemma": "guardproxy.families.shieldgemma:open_family",
    "wildguard": "guardproxy.families.wildguard:open_family",
}
