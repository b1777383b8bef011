"""The target of each output for a row of the labelled data, and the weight of that target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CATEGORIES = (
    "violence_hate",
    "sexual_content",
    "criminal_planning",
    "guns_illegal_weapons",
    "regulated_substances",
    "suicide_self_harm",
)
OUTPUTS = ("unsafe", *CATEGORIES, "jailbreak")

Row = Mapping[str, Any]

_CONFIDENCE_WEIGHTS = {"gold": 1.0, "strong": 1.0, "weak": 0.5, "keyword": 0.3}

# Sets whose overall label comes from a machine or an author's intention, or whose register is not that of a chat.
_UNSAFE_WEIGHTS = {
    "aart": 0.5,
    "harmfulqa": 0.5,
    "convabuse": 0.5,
    "rtp_decodingtrust": 0.8,
    "reddit_mental_health_27": 0.5,
    "davidson_hate": 0.5,
    "edos_sexism": 0.5,
    "hatemoji": 0.5,
    "diasafety": 0.5,
}
_SHORT = 400  # characters; a keyword label is usually right for texts up to this length

# In these sets, "safe" only means "not hateful".
_ONLY_HATE = frozenset({"davidson_hate", "edos_sexism", "hatemoji", "hatecheck"})

_JAILBREAK = frozenset({"jailbreak_prompts_inthewild", "jailbreak_templates_gptfuzz", "wildjailbreak_adv_harmful"})
_PLAIN = frozenset(
    {
        "advbench",
        "ailuminate_demo",
        "aart",
        "catqa",
        "coconot",
        "do_not_answer",
        "figstep_safebench",
        "harmfulqa",
        "malicious_instruct",
        "phtest_train",
        "strongreject",
        "reddit_mental_health_27",
        "rtp_decodingtrust",
        "hatecheck",
    }
)


def targets(row: Row, outside: str, implied: float, prose: float) -> dict[str, tuple[float, float]]:
    """Map each labelled output of the row to (target in {0, 1}, weight > 0); the other outputs are masked.

    `outside` is the meaning of a harmful row that no category covers for the overall output: "mask" (no target),
    "safe" or "unsafe"; such a row is a weak negative of every category. `implied` is the weight of "absent" for a
    category that an unsafe row does not name although it names another; `prose` the weight of "safe" for unlabelled
    prose that its source found neither toxic nor sexist.
    """
    out: dict[str, tuple[float, float]] = {}
    known = {name: int(value) for name, value in row["labels"].items()}
    weight = _label_weight(row)
    named = any(known.values())
    is_outside = bool(row.get("outside")) and row["unsafe"] == 1 and not named
    if prose > 0 and _mostly_safe(row):
        return dict.fromkeys(("unsafe", "violence_hate"), (0.0, prose))
    unsafe = _unsafe_target(row, outside, is_outside)
    if unsafe is not None:
        out["unsafe"] = unsafe
    for category in CATEGORIES:
        if category in known:
            out[category] = (float(known[category]), weight)
        elif is_outside:
            out[category] = (0.0, 0.3)
        elif row["unsafe"] == 1 and named and implied > 0:
            out[category] = (0.0, implied * weight)
    jailbreak = _jailbreak_target(row)
    if jailbreak is not None:
        out["jailbreak"] = jailbreak
    return out


def _label_weight(row: Row) -> float:
    confidence = row.get("confidence") or ""
    if confidence == "keyword" and len(row["messages"][-1]["content"]) <= _SHORT:
        return 0.6
    return _CONFIDENCE_WEIGHTS.get(confidence, 1.0)


def _mostly_safe(row: Row) -> bool:
    """Whether the row is unlabelled prose that its source found neither toxic nor sexist, so usually safe."""
    source_labels = row.get("source_labels") or []
    if row["unsafe"] is not None:
        return False
    return (row["source"] == "rtp_decodingtrust" and not source_labels) or (
        row["source"] == "edos_sexism" and "not sexist" in source_labels
    )


def _unsafe_target(row: Row, outside: str, is_outside: bool) -> tuple[float, float] | None:
    if row["unsafe"] is None:
        return None
    if is_outside:
        return {"mask": None, "safe": (0.0, 0.3), "unsafe": (1.0, 0.5)}[outside]
    weight = _UNSAFE_WEIGHTS.get(row["source"], 1.0)
    if row["unsafe"] == 0 and row["source"] in _ONLY_HATE:
        weight *= 0.6
    return float(row["unsafe"]), weight


def _jailbreak_target(row: Row) -> tuple[float, float] | None:
    if row["side"] != "user":
        return None
    if row["source"] in _JAILBREAK:
        return 1.0, 1.0
    if row["source"] == "prompt_injections_deepset":
        return (1.0, 1.0) if row["unsafe"] is None else (0.0, 1.0)
    if row["source"].startswith("benign_") or row["source"] in _PLAIN:
        return 0.0, 0.5
    return None
