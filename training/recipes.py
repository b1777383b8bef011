"""The named recipes: the contents of the mixture and how the encoder is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

_CAPS = {
    "aart": 2000,
    "convabuse": 1200,
    "cyberseceval_mitre": 1000,
    "davidson_hate": 2500,
    "diasafety": 5000,
    "edos_sexism": 4000,
    "hatecheck": 2500,
    "hatemoji": 2500,
    "reddit_mental_health_27": 2500,
}
_BOOSTS = {
    "advbench": 2,
    "ailuminate_demo": 2,
    "benign_awesome_prompts": 2,
    "benign_mtbench_vicuna": 2,
    "benign_self_instruct": 2,
    "benign_wildchat300": 4,
    "catqa": 2,
    "do_not_answer": 2,
    "pyrit_scorer_evals": 2,
    "strongreject": 3,
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A way to train the guard.

    Start: `base` is the encoder that training starts from. `after` names the recipe whose weights it continues from
    (none: the base encoder). `mean` names recipes whose weights are averaged; such a recipe trains nothing itself.

    Labels: `outside` is the meaning for `unsafe` of rows that no category covers ("mask", "safe", "unsafe"); `implied`
    the weight of "absent" for categories that an unsafe row does not name; `prose` the weight of "safe" for unlabelled
    prose that its source found neither toxic nor sexist.

    Mixture: `sample` limits the examples of all kinds together (None: no limit), `caps` those of a set; `boosts`
    repeats a set. `wraps`, `pairs`, `swaps`, `chunks`, `disguises`, `declines`, `embeds`, `padded`, `asides`,
    `answers`, `benign`, `plainharm`, `threads` and `replies` count synthetic rows, `lookalikes` counts them by family.
    `multilingual` counts texts in many languages; if it is not 0, weights are balanced within every language.
    `languages` limits the rows of `benign_tldr` in English and in all other languages.

    Optimiser: `rate` is the peak learning rate of the top layer; each layer below has `decay` times the rate of the
    layer above. `average` is the decay of the exponential moving average of the weights, which is the result. `frozen`
    counts the frozen layers from the embeddings up. `window` is the length of a training window in tokens, `windows`
    the most windows of a text.

    Distillation: `soft` is the share of the loss that follows the teacher model, on the labelled rows and on up to
    `unlabelled` other rows per set; 0 trains without a teacher.
    """

    base: Literal["minilm", "mpnet", "e5"] = "minilm"
    after: str = ""
    mean: tuple[str, ...] = ()

    outside: str = "safe"
    implied: float = 0.4
    prose: float = 0.25
    caps: Mapping[str, int] = field(default_factory=lambda: dict(_CAPS))
    boosts: Mapping[str, int] = field(default_factory=lambda: dict(_BOOSTS))
    wraps: int = 3000
    pairs: int = 10000
    swaps: int = 5000
    chunks: int = 4000
    disguises: int = 2500
    declines: int = 0
    embeds: int = 0
    padded: int = 0
    asides: int = 0
    answers: int = 0
    benign: int = 0
    plainharm: int = 0
    threads: int = 0
    replies: int = 0
    multilingual: int = 0
    languages: tuple[int, int] | None = None
    lookalikes: Mapping[str, int] = field(default_factory=dict)
    unlabelled: int = 5000
    epochs: int = 2
    batch: int = 128
    rate: float = 3e-4
    decay: float = 0.9
    average: float = 0.998
    soft: float = 0.0
    frozen: int = 0
    window: int = 256
    windows: int = 3
    sample: int | None = None


_CONTINUED_CAPS = {
    "aart": 250, "advbench": 150, "aegis1_train_sample": 150, "ailuminate_demo": 600, "airbench_sample": 120,
    "benign_awesome_prompts": 100, "benign_mtbench_vicuna": 120, "benign_self_instruct": 300,
    "benign_taskmaster4": 60, "benign_wildchat300": 225, "benign_writingbench_en": 60, "catqa": 300,
    "coconot": 1000, "convabuse": 250, "cyberseceval_mitre": 250, "davidson_hate": 300, "diasafety": 400,
    "do_not_answer": 300, "edos_sexism": 400, "figstep_safebench": 150, "gptfuzz_responses": 600,
    "harmfulqa": 200, "hatecheck": 400, "hatemoji": 300, "jailbreak_prompts_inthewild": 80,
    "malicious_instruct": 50, "phtest_train": 700, "prompt_injections_deepset": 100, "pyrit_scorer_evals": 500,
    "reddit_mental_health_27": 300, "rtp_decodingtrust": 2400, "strongreject": 250,
    "wildguard_train_sample": 500, "wildjailbreak_adv_harmful": 150,
}  # fmt: skip

_BASE = Recipe()

_FIRST = replace(
    _BASE, outside="mask", implied=0.2, prose=0.0, caps=_CAPS | {"edos_sexism": 1500}, wraps=6000, pairs=9000,
    swaps=0, chunks=0, disguises=4000,
)  # fmt: skip

_HARDENED = Recipe(
    after="continued",
    caps={source: cap // 2 for source, cap in _CONTINUED_CAPS.items()} | {
        "edos_sexism": 1600, "gptfuzz_responses": 500, "hatecheck": 450, "hatemoji": 450, "phtest_train": 450,
        "pyrit_scorer_evals": 500, "reddit_mental_health_27": 700,
    },
    boosts={}, wraps=100, pairs=800, swaps=250, chunks=700, disguises=100, declines=700, embeds=700,
    lookalikes={"ask": 900, "figure": 450, "why": 450, "opinion": 900, "advert": 600},
    epochs=1, batch=32, rate=1e-4, average=0.99, frozen=5, window=112, windows=1,
)  # fmt: skip

_LARGE = replace(
    _BASE, base="mpnet", caps={
        "aart": 800, "airbench_sample": 300, "benign_multilingual": 1200, "benign_taskmaster4": 300,
        "benign_writingbench_en": 200, "coconot": 2200, "convabuse": 400, "cyberseceval_mitre": 500,
        "davidson_hate": 600, "diasafety": 1600, "edos_sexism": 1600, "gptfuzz_responses": 1800, "harmfulqa": 700,
        "hatecheck": 600, "hatemoji": 500, "jailbreak_prompts_inthewild": 150, "multijail": 500,
        "prompt_injections_deepset": 200, "reddit_mental_health_27": 900, "rtp_decodingtrust": 3200,
        "wildjailbreak_adv_harmful": 500,
    },
    boosts={"benign_mtbench_vicuna": 2, "benign_wildchat300": 3, "strongreject": 2}, languages=(3500, 600),
    wraps=400, pairs=3000, swaps=1000, chunks=800, disguises=300, declines=800, embeds=800, padded=500, asides=500,
    answers=2500, benign=7500, plainharm=15000, threads=1200, replies=6000,
    lookalikes={"ask": 1500, "figure": 700, "why": 700, "opinion": 1300, "advert": 700},
    epochs=1, batch=64, rate=1e-4, average=0.995, frozen=9, window=128, windows=1,
)  # fmt: skip

_MULTILINGUAL = replace(
    _BASE, base="e5", caps=dict.fromkeys((
        "advbench", "aegis1_train_sample", "airbench_sample", "benign_mtbench_vicuna", "do_not_answer",
        "figstep_safebench", "strongreject", "benign_awesome_prompts", "benign_taskmaster4", "malicious_instruct",
        "prompt_injections_deepset", "pyrit_seed_prompts", "jailbreak_templates_gptfuzz", "convabuse", "davidson_hate",
        "cyberseceval_mitre", "hatemoji", "wildjailbreak_adv_harmful", "jailbreak_prompts_inthewild",
        "gptfuzz_responses", "pyrit_scorer_evals", "reddit_mental_health_27",
    ), 60) | dict.fromkeys((
        "aart", "ailuminate_demo", "benign_self_instruct", "benign_wildchat300", "catqa", "diasafety", "edos_sexism",
        "harmfulqa", "hatecheck", "phtest_train", "wildguard_train_sample", "coconot", "rtp_decodingtrust",
    ), 120) | {"benign_writingbench_en": 30, "benign_multilingual": 2600},
    boosts={}, languages=(300, 1600), wraps=0, pairs=100, swaps=0, chunks=0, disguises=0,
    benign=400, plainharm=1400, replies=100, multilingual=7000,
    epochs=1, batch=48, rate=3e-4, average=0.985, frozen=7, window=128, windows=1,
)  # fmt: skip

RECIPES: dict[str, Recipe] = {
    "first": _FIRST,
    "first_outside_safe": replace(_FIRST, outside="safe"),
    "first_outside_unsafe": replace(_FIRST, outside="unsafe"),
    "first_no_pairs": replace(_FIRST, pairs=0),
    "first_no_wraps": replace(_FIRST, wraps=0),
    "first_no_disguises": replace(_FIRST, disguises=0),
    "first_implied_05": replace(_FIRST, implied=0.5),
    "first_no_caps": replace(_FIRST, caps={}, boosts={}),
    "first_epochs_5": replace(_FIRST, epochs=5),
    "first_rate_low": replace(_FIRST, rate=1.2e-4),
    "continued": Recipe(
        after="first", caps=_CONTINUED_CAPS, boosts={}, wraps=200, pairs=1500, swaps=500, chunks=500, disguises=150,
        epochs=1, batch=32, rate=1e-4, average=0.98, frozen=5, window=96, windows=1,
    ),
    "hardened": _HARDENED,
    "answered": replace(
        _HARDENED, after="whole", caps=dict(_HARDENED.caps) | {
            "airbench_sample": 300, "coconot": 1000, "diasafety": 800, "gptfuzz_responses": 1200,
            "pyrit_scorer_evals": 1000,
        },
        pairs=1500, answers=2500, frozen=4,
    ),
    "again": replace(_HARDENED, after="answered"),
    "averaged": Recipe(mean=("hardened", "again")),
    "settled": Recipe(
        after="hardened",
        caps=_CONTINUED_CAPS | {
            "airbench_sample": 400, "coconot": 2500, "davidson_hate": 250, "diasafety": 1500, "edos_sexism": 1600,
            "gptfuzz_responses": 3000, "hatecheck": 450, "hatemoji": 450, "phtest_train": 600,
            "pyrit_scorer_evals": 1200, "reddit_mental_health_27": 600, "benign_writingbench_en": 200,
        },
        boosts={"pyrit_scorer_evals": 2}, wraps=200, pairs=1500, swaps=500, chunks=900, disguises=150, declines=1000,
        embeds=900, padded=900, asides=900,
        lookalikes={"ask": 1200, "figure": 600, "why": 600, "opinion": 1200, "advert": 700},
        epochs=1, batch=32, rate=6e-5, average=0.99, window=192, windows=2,
    ),
    "whole": replace(
        _BASE, caps=_CAPS | {
            "edos_sexism": 3500, "gptfuzz_responses": 4000, "jailbreak_prompts_inthewild": 500,
            "reddit_mental_health_27": 1200, "benign_writingbench_en": 400, "wildjailbreak_adv_harmful": 1200,
        },
        wraps=2000, pairs=9000, swaps=3000, chunks=3000, disguises=1500, epochs=1, batch=64, rate=2.5e-4, average=0.995,
        frozen=1, window=128, windows=2,
    ),
    "replies": replace(
        _BASE, caps=_CAPS | {
            "aart": 1200, "convabuse": 500, "cyberseceval_mitre": 500, "davidson_hate": 1000, "diasafety": 4000,
            "edos_sexism": 2500, "hatecheck": 1200, "hatemoji": 1200, "jailbreak_prompts_inthewild": 500,
            "reddit_mental_health_27": 1200, "rtp_decodingtrust": 5000, "benign_writingbench_en": 400,
            "wildjailbreak_adv_harmful": 800,
        },
        boosts={}, wraps=1000, pairs=6000, swaps=2000, chunks=2000, disguises=800, declines=1500, embeds=1000,
        padded=800, asides=1500, answers=3000, lookalikes=_HARDENED.lookalikes,
        epochs=1, batch=64, rate=2.5e-4, average=0.99, frozen=1,
    ),
    "prose": _BASE,
    "large": _LARGE,
    "multilingual": _MULTILINGUAL,
    "small": replace(
        _LARGE, base="minilm", after="averaged", soft=0.7, unlabelled=0, sample=30000, batch=48, rate=2e-4, frozen=1
    ),
    "cpu": replace(
        _BASE, wraps=1500, pairs=4000, swaps=2000, chunks=1500, epochs=1, batch=32, frozen=3, window=96, windows=1
    ),
}  # fmt: skip
