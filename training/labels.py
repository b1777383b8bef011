"""What a row of the labelled data says about each output of the guard, and how much it is believed."""

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

_BELIEF = {"gold": 1.0, "strong": 1.0, "weak": 0.5, "keyword": 0.3}

# Sets whose overall label is a machine's or an author's intention, or speaks of another register than chat.
_UNSAFE_BELIEF = {
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
_SHORT = 400  # characters up to which a keyword label is usually right

# In these, "safe" was only ever asked as "not hateful".
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
    """Map each output that the row speaks about to (target in {0, 1}, weight > 0); the others are masked.

    `outside` says what a row that no category covers means: "mask" (nothing), "safe" or "unsafe" for the
    overall output; such a row is a weak negative of every category. `implied` is the weight with which a
    category that an unsafe row does not name, while it names another, counts as absent; `prose` the weight with
    which unlabelled prose that its source found neither toxic nor sexist counts as safe.
    """
    out: dict[str, tuple[float, float]] = {}
    given = {name: int(value) for name, value in row["labels"].items()}
    belief = _belief(row)
    named = any(given.values())
    is_outside = bool(row.get("outside")) and row["unsafe"] == 1 and not named
    if prose > 0 and _mostly_safe(row):
        return dict.fromkeys(("unsafe", "violence_hate"), (0.0, prose))
    unsafe = _unsafe_target(row, outside, is_outside)
    if unsafe is not None:
        out["unsafe"] = unsafe
    for category in CATEGORIES:
        if category in given:
            out[category] = (float(given[category]), belief)
        elif is_outside:
            out[category] = (0.0, 0.3)
        elif row["unsafe"] == 1 and named and implied > 0:
            out[category] = (0.0, implied * belief)
    jailbreak = _jailbreak_target(row)
    if jailbreak is not None:
        out["jailbreak"] = jailbreak
    return out


def _belief(row: Row) -> float:
    confidence = row.get("confidence") or ""
    if confidence == "keyword" and len(row["messages"][-1]["content"]) <= _SHORT:
        return 0.6
    return _BELIEF.get(confidence, 1.0)


def _mostly_safe(row: Row) -> bool:
    """Unlabelled prose that its source found neither toxic nor sexist: safe more often than not."""
    marks = row.get("source_labels") or []
    if row["unsafe"] is not None:
        return False
    return (row["source"] == "rtp_decodingtrust" and not marks) or (
        row["source"] == "edos_sexism" and "not sexist" in marks
    )


def _unsafe_target(row: Row, outside: str, is_outside: bool) -> tuple[float, float] | None:
    if row["unsafe"] is None:
        return None
    if is_outside:
        return {"mask": None, "safe": (0.0, 0.3), "unsafe": (1.0, 0.5)}[outside]
    belief = _UNSAFE_BELIEF.get(row["source"], 1.0)
    if row["unsafe"] == 0 and row["source"] in _ONLY_HATE:
        belief *= 0.6
    return float(row["unsafe"]), belief


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
