"""Guard families: how a kind of guard model or moderation service is prompted and read.

A family is data and pure functions. `REGISTRY` maps the name in `guard.family` to the `open_family` of one file. A
user's own family is named as `module:attribute` instead and needs no entry here.
"""

PATTERNS = "patterns"
PII = "pii"
# Families without a model or a service, whose findings are places in a text: what `guard.patterns` lists, and entities.
FINDERS = frozenset({PATTERNS, PII})
# Families of moderation services, which are called over HTTP and have no local model.
SERVICES = frozenset({"azure_content_safety", "openai_moderation", "perspective"})
# Families of models that are given a policy text and answer with a label, on a server: they give no probability.
LABELS = frozenset({"gpt_oss_safeguard", "policy_text"})
# Families whose models are asked in the chat of a server and answer in words.
CHATS = LABELS | {"nemotron"}

REGISTRY: dict[str, str] = {
    "azure_content_safety": "guardproxy.families.azure_content_safety:open_family",
    "classifier": "guardproxy.families.classifier:open_family",
    "gpt_oss_safeguard": "guardproxy.families.gpt_oss_safeguard:open_family",
    "granite_guardian": "guardproxy.families.granite_guardian:open_family",
    "llama_guard": "guardproxy.families.llama_guard:open_family",
    "nemotron": "guardproxy.families.nemotron:open_family",
    "openai_moderation": "guardproxy.families.openai_moderation:open_family",
    "patterns": "guardproxy.families.patterns:open_family",
    "pii": "guardproxy.families.pii:open_family",
    "perspective": "guardproxy.families.perspective:open_family",
    "policy_text": "guardproxy.families.policy_text:open_family",
    "qwen3guard": "guardproxy.families.qwen3guard:open_family",
    "shieldgemma": "guardproxy.families.shieldgemma:open_family",
    "wildguard": "guardproxy.families.wildguard:open_family",
}
