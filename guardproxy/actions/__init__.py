"""One file per action. Each offers `open_action(policy) -> Action`."""

REGISTRY: dict[str, str] = {
    "block": "guardproxy.actions.block:open_action",
    "redact": "guardproxy.actions.redact:open_action",
    "replace": "guardproxy.actions.replace:open_action",
}
# `block` refuses a text; every other action rewrites it, so a rule can name it as `rewrite.how`.
REWRITES = tuple(name for name in REGISTRY if name != "block")
