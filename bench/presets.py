"""Find the thresholds of the presets, and write them with their measured rates into the package and the pages.

    python -m bench.presets [DATA] [--rows N] [--data-dir DIR]

DATA is a folder of labelled rows (default: ../shared/data/dev). The embedded guard judges every row with the views of
the default policy, and every passage of a prompt by itself, as the proxy does; passages of views are left out. The
bound of sentences and the threshold of `unsafe` are found together, at one share of benign prompts: the lowest bound
that costs at most COST of the unsafe prompts and keeps EVERYDAY, or none if no sentence reaches it. Scores are stored:
a run that stops continues where it was, and other target rates need no check. `--rows` takes the first N rows in the
order of their SHA-256 instead of all.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.pages import fill, machine
from bench.shipped import weights
from guardproxy import app
from guardproxy.cli import parser
from guardproxy.cli.calibrate import side_lines
from guardproxy.cli.evaluate import guard_settings, read_rows, score_by
from guardproxy.evaluation.datasets import LabelledRow
from guardproxy.evaluation.metrics import Rate, rate_of
from guardproxy.evaluation.report import SIDES, Pair, pairs_of, stops_row, weights_of
from guardproxy.evaluation.scoring import ScoredRows
from guardproxy.evaluation.thresholds import Target, Threshold, find_thresholds, side_rules
from guardproxy.guards.cache import check_key
from guardproxy.policy import PRESETS, UNSAFE, Policy, SideRules
from guardproxy.sentences import SentencePolicy, passages
from guardproxy.settings import load
from guardproxy.settings.packaged import preset_rules
from guardproxy.types import Conversation, Message, Part, Side

ROOT = Path(__file__).parents[1]
PRESETS_FILE = ROOT / "guardproxy" / "settings" / "presets.yaml"

# The most benign rows that a preset stops: of prompts, and of replies.
TARGETS = {"strict": (0.08, 0.08), "balanced": (0.03, 0.04), "permissive": (0.01, 0.015)}
# How user turns are joined: `python -m bench.threads` measures it.
THREAD = "{turns: 4, characters: 2000, unsafe: 0.8}"
# The bounds of sentences that are tried: from which P(unsafe) on a sentence by itself counts.
BOUNDS = [step / 100 for step in range(60, 101, 2)]
# The share of the labelled unsafe prompts that a preset may miss because of sentences. Few of them hide harm among
# harmless text, which sentences are for.
COST = 0.01
# The most of the everyday prompts that a preset stops.
EVERYDAY = {"strict": 0.045, "balanced": 0.01, "permissive": 0.01}
# Left out: texts in languages that the embedded guard was not trained to read. Many of them are harmless, so they would
# raise the share of harmless texts stopped in English.
FOREIGN = {"benign_multilingual", "multijail"}
# Only measured: plain prompts that were written for this project.
PLAIN = {"everyday": "300 everyday prompts", "harmful": "150 plain harmful prompts"}


Highest = Mapping[str, float]
"""Of each prompt with several passages the highest P(unsafe) of one, by the row's place."""


def scored(files: Sequence[Path], rows: int | None, data_dir: str | None) -> tuple[list[Pair], Highest]:
    """The rows with a known label, each with the embedded guard's score; and the scores of the prompts' passages."""
    args = arguments(files, ["--views"], data_dir)
    known = [row for row in read_rows(args) if row.unsafe is not None]
    chosen = sorted(known, key=lambda row: check_key(row.check))[:rows]
    cut = [part for row in chosen if row.check.side == "user" for part in parts(row)]
    highest: dict[str, float] = {}
    for row, score in pairs_of(judged(cut, arguments(files, [], data_dir))):
        highest[row.place] = max(score.unsafe, highest.get(row.place, 0.0))
    return pairs_of(judged(chosen, args)), highest


def arguments(files: Sequence[Path], options: Sequence[str], data_dir: str | None) -> argparse.Namespace:
    """The arguments of `guardproxy evaluate` for the embedded guard."""
    line = ["evaluate", *map(str, files), "--guard", "embedded", *options]
    return parser().parse_args([*line, "--data-dir", data_dir] if data_dir else line)


def judged(rows: Sequence[LabelledRow], args: argparse.Namespace) -> ScoredRows:
    """The rows with the embedded guard's scores."""
    return score_by("embedded", guard_settings(args)["embedded"], rows, args)


def parts(row: LabelledRow) -> list[LabelledRow]:
    """Each passage of a prompt as a row; none if it has a single one."""
    return [
        replace(row, check=replace(row.check, conversation=Conversation((Message("user", (Part("passage", text),)),))))
        for text in passages(row.check.turn.text)
    ]


def stopped(pairs: Sequence[Pair], policy: Policy, highest: Highest) -> Rate:
    """How many rows the policy rewrites or blocks, as a whole or because of a sentence."""
    hits = [stops_row(pair, policy) or by_sentence(pair, policy.sentences.unsafe, highest) for pair in pairs]
    return rate_of(np.array(hits, dtype=np.bool_), weights_of(pairs))


def by_sentence(pair: Pair, bound: float | None, highest: Highest) -> bool:
    """Whether a sentence of the row reaches the bound, which is no lower than the threshold of whole texts."""
    return bound is not None and highest.get(pair[0].place, 0.0) >= bound


@dataclass(frozen=True, slots=True)
class Fit:
    """The policy for prompts with one bound of sentences; `target` is what it leaves to the rules of whole texts."""

    policy: Policy
    target: Target
    others: list[Pair]


def fit(pairs: Sequence[Pair], highest: Highest, bound: float | None, rate: float) -> Fit | None:
    """The rules that stop, with sentences from `bound` on, at most `rate` of the benign prompts; None if there is none.

    There is none where sentences alone stop more, or would count below the threshold of whole texts.
    """
    benign = select(pairs, unsafe=False)
    others = [pair for pair in pairs if not by_sentence(pair, bound, highest)]
    all_of, left = weights_of(benign).sum(), weights_of(select(others, unsafe=False)).sum()
    spare = rate * all_of - (all_of - left)
    if spare <= 0:
        return None
    target = Target("fpr", float(spare / left))
    found = find_thresholds(others, target)
    if any(isinstance(one, Threshold) and one.category == UNSAFE and one.threshold > (bound or 1.0) for one in found):
        return None
    policy = Policy("prompts", "", side_rules(found, "user"), SideRules({}), sentences=SentencePolicy(bound))
    return Fit(policy, target, others)


def chosen_fit(
    pairs: Sequence[Pair], everyday: Sequence[Pair], highest: Highest, rate: float, most: float
) -> Fit | None:
    """The fit with the lowest bound that costs at most COST of the unsafe prompts, and `most` of the everyday ones.

    Without sentences if there is none that a passage reaches; None if the target cannot be kept at all.
    """
    whole, unsafe = fit(pairs, highest, None, rate), select(pairs, unsafe=True)
    if whole is None:
        return None
    least = stopped(unsafe, whole.policy, highest).value - COST
    for bound in (step for step in BOUNDS if step <= max(highest.values(), default=0.0)):
        one = fit(pairs, highest, bound, rate)
        if (
            one is not None
            and stopped(unsafe, one.policy, highest).value >= least
            and stopped(everyday, one.policy, highest).value <= most
        ):
            return one
    return whole


def presets_text(pairs: Sequence[Pair], everyday: Sequence[Pair], highest: Highest, whole: bool) -> str:
    """The text of presets.yaml."""
    count = f"all {len(pairs):,}" if whole else f"{len(pairs):,}"
    lines = [
        "# The rules of the presets. `python -m bench.presets` finds and writes them; do not edit this file.",
        f"# On {machine()}, weights {weights()}: {count} labelled rows of {', '.join(sets(pairs))}.",
        "# Most benign rows of these sets are borderline on purpose, so ordinary traffic is stopped less often.",
        "# Intervals (95 %) are in brackets. A category that keeps to `unsafe` has a flag that only names it.",
    ]
    prompts, replies = (select(pairs, side=side) for side in SIDES)
    for preset, (user, assistant) in TARGETS.items():
        found = chosen_fit(prompts, everyday, highest, user, EVERYDAY[preset])
        if found is None:
            sys.exit(f"{preset}: no thresholds keep its target")
        targets: dict[Side, Target] = {"user": found.target, "assistant": Target("fpr", assistant)}
        sides, refused = side_lines([*found.others, *replies], targets)
        if refused:
            sys.exit("\n".join([f"{preset}: too few rows for its target", *refused]))
        bound = found.policy.sentences.unsafe
        shares = [share(stopped(select(prompts, unsafe=kind), found.policy, highest)) for kind in (True, False)]
        lines += [
            "",
            f"# At most {100 * user:g} % of the benign prompts and {100 * assistant:g} % of the benign replies.",
            f"{preset}:",
            f"  thread: {THREAD}",
            f"  # with the rules of `user`: {shares[0]} of the unsafe and {shares[1]} of the benign prompts",
        ]
        if bound is not None:
            lines += [
                f"  sentences: {{unsafe: {bound:g}}}",
                f"  # of the {len(found.others):,} prompts of which no sentence reaches that bound:",
            ]
        lines += [f"  {line}" for side in SIDES for line in sides[side]]
    return "\n".join(lines) + "\n"


def sets(pairs: Sequence[Pair]) -> list[str]:
    """The names of the data files."""
    return sorted({row.dataset for row, _ in pairs})


def overview(
    policies: Mapping[str, Policy], pairs: Sequence[Pair], plain: Sequence[Pair], highest: Highest
) -> Iterator[str]:
    """What each preset stops, over all sets together."""
    names = ["unsafe prompts", "benign prompts", "unsafe replies", "benign replies", *PLAIN.values()]
    yield f"| preset | {' | '.join(names)} |"
    yield f"| --- |{' ---: |' * len(names)}"
    for preset, policy in policies.items():
        groups = [select(pairs, side=side, unsafe=unsafe) for side in SIDES for unsafe in (True, False)]
        groups += [select(plain, dataset=name) for name in PLAIN]
        yield f"| `{preset}` | {' | '.join(percent(stopped(group, policy, highest)) for group in groups)} |"


def by_set(policies: Mapping[str, Policy], pairs: Sequence[Pair], highest: Highest) -> Iterator[str]:
    """What each preset stops of each set."""
    yield f"| set | rows | {' | '.join(f'`{preset}`' for preset in policies)} |"
    yield f"| --- | --- |{' ---: |' * len(policies)}"
    for name in sets(pairs):
        for kind, unsafe in (("unsafe", True), ("benign", False)):
            rows = select(pairs, dataset=name, unsafe=unsafe)
            if rows:
                cells = [percent(stopped(rows, policy, highest)) for policy in policies.values()]
                yield f"| `{name}` | {len(rows):,} {kind} | {' | '.join(cells)} |"


def select(
    pairs: Sequence[Pair], *, side: str | None = None, unsafe: bool | None = None, dataset: str | None = None
) -> list[Pair]:
    """The rows of a side, a label and a file; None stands for all."""
    return [
        (row, score)
        for row, score in pairs
        if side in {None, row.check.side} and unsafe in {None, row.unsafe} and dataset in {None, row.dataset}
    ]


def share(rate: Rate) -> str:
    """A share with its numbers, such as `3.00 % (106 of 3,528)`."""
    return f"{100 * rate.value:.2f} % ({rate.hits:,.0f} of {rate.n:,.0f})"


def percent(rate: Rate) -> str:
    """A share with its interval, in percent."""
    low, high = rate.interval
    return f"{100 * rate.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]" if rate.n else "-"


def main() -> None:
    """Score the rows, write presets.yaml, then the tables of docs/evaluation.md and README.md."""
    options = argparse.ArgumentParser(prog="python -m bench.presets", description=(__doc__ or "").partition("\n")[0])
    options.add_argument("data", nargs="?", type=Path, default=ROOT.parent / "shared" / "data" / "dev")
    options.add_argument("--rows", type=int, metavar="N")
    options.add_argument("--data-dir", metavar="DIR")
    args = options.parse_args()
    files = [path for path in sorted(args.data.glob("*.jsonl.gz")) if path.name.partition(".")[0] not in FOREIGN]
    plain, of_plain = scored([ROOT / "training" / f"{name}.jsonl" for name in PLAIN], None, args.data_dir)
    pairs, of_pairs = scored(files, args.rows, args.data_dir)
    highest = {**of_plain, **of_pairs}
    everyday = select(plain, dataset="everyday")
    PRESETS_FILE.write_text(presets_text(pairs, everyday, highest, args.rows is None))
    preset_rules.cache_clear()
    policies: dict[str, Policy] = {
        preset: load(None, {}, app.catalogue(), preset).policies.policies["default"] for preset in PRESETS
    }
    table = "\n".join(overview(policies, pairs, plain, highest))
    where = f"On {machine()}, weights `{weights()}`, {len(pairs):,} rows; in percent, with 95 % Wilson intervals:"
    fill(
        ROOT / "docs" / "evaluation.md",
        "presets",
        f"{where}\n\n{table}\n\n" + "\n".join(by_set(policies, pairs, highest)),
    )
    fill(ROOT / "README.md", "presets", table)


if __name__ == "__main__":
    main()
