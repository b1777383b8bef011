"""One file per action: the plug-in that turns the decision on a turn into its outcome.

Each file offers `open_action(policy) -> Action`. The decision `block` runs the action `block`. Every other key of
`REGISTRY` is a rewrite, which a policy selects with `rewrite: {how: ...}`. A user's own action (`module:attribute`) is
a rewrite as well.
"""

BLOCK = "block"
MASK = "mask"
REGISTRY: dict[str, str] = {
    BLOCK: "guardproxy.actions.block:open_action",
    MASK: "guardproxy.actions.mask:open_action",
    "redact": "guardproxy.actions.redact:open_action",
    "replace": "guardproxy.actions.replace:open_action",
}
REWRITES = tuple(name for name in REGISTRY if name != BLOCK)
