"""Write measured tables into docs/evaluation.md, between its two marks.

    guardproxy evaluate DATA... --guard embedded --json | python -m bench.evaluation_tables docs/evaluation.md

The published figures are constants here, with their source; every measured figure comes from standard input.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.pages import fill, machine
from guardproxy.evaluation.tables import number

# arXiv:2312.06674, table 2: AUPRC on its own test prompts, OpenAI's moderation set, ToxicChat, its own test replies.
PUBLISHED = {
    "Llama Guard 7B": ("0.945", "0.847", "0.626", "0.953"),
    "OpenAI moderation API (2023)": ("0.764", "0.856", "0.588", "0.769"),
    "Perspective API": ("0.728", "0.787", "0.532", "0.699"),
}

# The content of each data file, and its difference from the set of the published figures.
SETS = {
    "openai_mod": "half of OpenAI's moderation set (826 of 1,680 rows)",
    "toxicchat_train_human": "ToxicChat, the human-annotated rows of its train split (published: its test split)",
    "beavertails_30k_test": "BeaverTails 30k test, replies",
    "harmbench_response": "HarmBench, replies with human labels",
    "aegis1_test_prompts": "Aegis 1.0 test, prompts",
    "jailbreakbench": "JailbreakBench behaviours, harmful and benign",
    "xstest": "half of XSTest v2",
    "simple_safety_tests": "SimpleSafetyTests (all unsafe)",
    "phtest_eval": "half of PHTest: harmless look-alikes",
}
MEASURES = ("auprc", "roc_auc", "f1", "fpr", "recall_at_1pct_fpr", "recall_at_5pct_fpr", "ece")

Report = Mapping[str, Any]


def seed_table(name: str, report: Report) -> Iterator[str]:
    """The published figures, and those of the measured guard."""
    yield "| guard | own test, prompts | OpenAI moderation | ToxicChat | own test, replies | |"
    yield "| --- | ---: | ---: | ---: | ---: | --- |"
    for guard, values in PUBLISHED.items():
        yield f"| {guard} | {' | '.join(values)} | published |"
    cells = [_auprc(report["datasets"].get(dataset)) for dataset in ("openai_mod", "toxicchat_train_human")]
    yield f"| `{name}` | - | {cells[0]} | {cells[1]} | - | measured |"


def set_table(report: Report) -> Iterator[str]:
    """The overall measures of every file."""
    yield "| set | rows | unsafe | AUPRC | ROC-AUC | F1 | FPR | recall at 1 % FPR | recall at 5 % FPR | ECE |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, dataset in report["datasets"].items():
        part = dataset["overall"]
        cells = [number(part[measure], part["ci"][measure]) for measure in MEASURES]
        yield f"| `{name}` | {part['n']:,} | {part['positives']:,} | {' | '.join(cells)} |"


def category_table(report: Report) -> Iterator[str]:
    """The measures of every category with at least 20 positive rows in a file."""
    yield "| set | category | rows | positive | AUPRC 1-vs-all | AUPRC 1-vs-benign | ROC-AUC |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    for name, dataset in report["datasets"].items():
        for category, both in dataset["categories"].items():
            every, benign = both["one_vs_all"], both["one_vs_benign"]
            if every["positives"] >= 20:
                cells = [f"{every['n']:,}", f"{every['positives']:,}", _of(every, "auprc"), _of(benign, "auprc")]
                yield f"| `{name}` | {category} | {' | '.join([*cells, _of(every, 'roc_auc')])} |"


def page(reports: Mapping[str, Report]) -> str:
    """The text between the marks of the page."""
    out: list[str] = []
    for name, report in reports.items():
        cost = report["cost"]
        out += ["## Measured", "", f"On {machine()}, by `make evaluation`, which runs", ""]
        out += [f"    guardproxy evaluate DATA/*.jsonl.gz --guard {name} --json", ""]
        out += ["Intervals hold 95 % of 1,000 bootstrap resamples. AUPRC beside the published figures:", ""]
        out += [*seed_table(name, report), ""]
        out += ["Overall, by file; F1 and FPR at a probability of 0.5:", "", *set_table(report), ""]
        out += [f"* `{dataset}`: {SETS[dataset]}." for dataset in report["datasets"] if dataset in SETS]
        out += ["", "By category, if a file has at least 20 positive rows:", "", *category_table(report), ""]
        out.append(
            f"On average, a row had {cost['tokens_computed']:.0f} tokens in {cost['windows']:.2f} windows and took "
            f"{cost['compute_ms']:.0f} ms of the model's wall-clock time, under any other load of the machine; "
            f"{report['failed']} rows got no verdict."
        )
    return "\n".join(out)


def _auprc(dataset: Report | None) -> str:
    return "-" if dataset is None else _of(dataset["overall"], "auprc")


def _of(part: Report | None, measure: str) -> str:
    return "-" if part is None else number(part[measure], part["ci"][measure])


def main() -> None:
    """Replace the text between the marks of the page."""
    fill(Path(sys.argv[1]), "measured", page(json.load(sys.stdin)))


if __name__ == "__main__":
    main()
