"""Measure how many small changes of the source the tests notice.

    python -m mutation [MODULE ...] [--sample 60 | --all] [--seed 1] [--jobs 2] [--least 92]

Prints every surviving mutant with its place and change, then a table. The exit status is 1 if a module is below
`--least` percent or a listed equivalent matches no mutant, and 2 if the tests fail on the unchanged source.
"""

import argparse
import random
import signal
import sys
import time
from dataclasses import dataclass

from mutation import equivalents
from mutation.modules import PACKAGE, expand
from mutation.mutants import Mutant, mutants
from mutation.trial import GRACE_S, PATIENCE, ROOT, Trial, copies


@dataclass(frozen=True, slots=True)
class Score:
    """The result of a module: mutants that exist, that were tried, that a test noticed, and that are equivalent."""

    module: str
    found: int
    tried: int
    killed: int
    equivalent: int
    stale: int

    @property
    def percent(self) -> float:
        """Percentage of the mutants tried that a test noticed."""
        return 100 * self.killed / self.tried if self.tried else 100.0

    def row(self) -> str:
        """Return the row of the table."""
        share = f"{self.percent:.0f} %"
        return f"| `{self.module}` | {self.found} | {self.tried} | {self.killed} | {share} | {self.equivalent} |"


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary folder is removed
    try:
        chosen = expand(ROOT, options.modules)
    except LookupError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    scores: list[Score] = []
    with copies(options.jobs) as trial:
        times: dict[tuple[str, ...], float] = {}
        for module, tests in chosen:
            try:
                times[tests] = times.get(tests) or trial.baseline(tests)
            except RuntimeError as error:
                sys.stderr.write(f"{error}\n")
                return 2
            scores.append(_score(trial, module, tests, times[tests], options))
    print("| module | mutants | tried | killed | score | equivalent |\n|---|---|---|---|---|---|")
    print("\n".join(score.row() for score in scores))
    return int(any(score.percent < options.least or score.stale for score in scores))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mutation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="a module or folder of the package; default: all")
    parser.add_argument("--sample", type=int, default=60, help="mutants of a module to try (default: 60)")
    parser.add_argument("--all", action="store_true", help="try every mutant")
    parser.add_argument("--seed", type=int, default=1, help="chooses the sample (default: 1)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time (default: 2)")
    parser.add_argument("--least", type=float, default=92, help="percentage below which the status is 1 (default: 92)")
    return parser


def _score(trial: Trial, module: str, tests: tuple[str, ...], seconds: float, options: argparse.Namespace) -> Score:
    found = mutants(trial.source(module))
    candidates, equivalent, stale = equivalents.split(module, found, equivalents.load())
    sample = candidates
    if not options.all and len(candidates) > options.sample:
        # By module, so that a module's sample is the same whichever modules are chosen.
        chosen = random.Random(f"{options.seed} {module}").sample(range(len(candidates)), options.sample)
        sample = [candidates[index] for index in sorted(chosen)]
    began = time.monotonic()
    alive = trial.survivors(module, [mutant.source for mutant in sample], tests, PATIENCE * seconds + GRACE_S)
    for index in alive:
        _show(module, sample[index])
    for entry in stale:
        print(f"{module}: a listed equivalent matches no mutant: {entry.before!r} -> {entry.after!r}")
    score = Score(module, len(found), len(sample), len(sample) - len(alive), len(equivalent), len(stale))
    print(f"{module}: {score.killed} of {score.tried} killed in {time.monotonic() - began:.0f} s", flush=True)
    return score


def _show(module: str, mutant: Mutant) -> None:
    print(f"{PACKAGE}/{module}:{mutant.line} in {mutant.function or 'the module'}: {mutant.kind}")
    for sign, text in (("-", mutant.before), ("+", mutant.after)):
        print("\n".join(f"    {sign} {line}" for line in text.splitlines()))


if __name__ == "__main__":
    sys.exit(main())
