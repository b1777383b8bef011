"""`guardproxy calibrate`: find thresholds, or how to combine guards, on labelled data, and print them as YAML."""

import argparse
import os
import shlex
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardproxy.cli.audited import rate
from guardproxy.cli.evaluate import DATA, PLOT_HELP, add_inputs, draw, guard_settings, report_failures, score_all
from guardproxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from guardproxy.evaluation.combining import CascadeBounds, MeanWeights
    from guardproxy.evaluation.metrics import Rate
    from guardproxy.evaluation.report import Pair
    from guardproxy.evaluation.scoring import ScoredRows
    from guardproxy.evaluation.thresholds import NoThreshold, SideTotals, Target, Threshold
    from guardproxy.types import Side

# The probability of a category from which a text that `unsafe` blocks is named after it.
_NAMED_FROM = 0.5

# The lines above the rules of the sides.
_HEAD = ("policies:", "  default:")

_DESCRIBE_GUARDS = "# Describe the guards under `guards:`, by name; `embedded` needs no description."


_DESCRIPTION = (
    "Find thresholds on labelled data and print them as YAML for a policy, each with the rows that it rests on and "
    "95 % intervals. With --target-fpr, all rules of a side are found together, and a category gets a rule of its own "
    "only if that stops more unsafe rows, held out, at the same rate. With too few labels to show that the target is "
    "kept, a threshold is refused. With --cascade or --mean, find how to combine several guards instead."
)


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "calibrate",
        help="find thresholds on labelled data",
        description=_DESCRIPTION,
        epilog=DATA,
    )
    add_inputs(parser)
    parser.add_argument(
        "--target-fpr",
        type=_target,
        metavar="X",
        help="all rules of a side together block at most this share of benign rows",
    )
    parser.add_argument(
        "--target-fpr-replies",
        type=_target,
        metavar="X",
        help="the same for replies (default: that of --target-fpr)",
    )
    parser.add_argument(
        "--target-recall",
        type=_target,
        metavar="X",
        help="each rule blocks at least this share of the rows of its category",
    )
    combine = parser.add_mutually_exclusive_group()
    combine.add_argument(
        "--cascade",
        action="store_true",
        help="find the bounds between which a cascade asks the second --guard: they keep --target-recall of the rows "
        "that it finds, and add at most --target-fpr false positives",
    )
    combine.add_argument("--mean", action="store_true", help="find the weight of each --guard in a mean, by category")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="also change the thresholds in this configuration file"
    )
    parser.add_argument(
        "--in-policy", default="default", metavar="NAME", help="the policy that --write changes (default: default)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help=PLOT_HELP)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the YAML; return 1 if a row got no verdict. Raises ConfigError, also if every category is refused."""
    _check(args)
    scored = score_all(args, guard_settings(args))
    if args.plot is not None:
        draw(scored, args.plot)
    command = f"# {shlex.join(_command(args))}"
    if args.cascade:
        print("\n".join([command, *_cascade(scored, args)]))
    elif args.mean:
        print("\n".join([command, *_mean(scored)]))
    else:
        lines = _thresholds(scored, args)
        print("\n".join([command, *lines]))
        if args.write is not None:
            _write(lines, args.write, args.in_policy)
    return report_failures(scored.values())


def _check(args: argparse.Namespace) -> None:
    guards = len(args.guard or [None])
    targets = [target for target in (args.target_fpr, args.target_recall) if target is not None]
    if args.cascade and (guards != 2 or len(targets) != 2):
        raise ConfigError("--cascade needs two --guard, the faster guard first, and --target-fpr and --target-recall")
    if args.mean and (guards < 2 or targets):
        raise ConfigError("--mean needs two --guard or more, and neither --target-fpr nor --target-recall")
    if not (args.cascade or args.mean) and (guards != 1 or len(targets) != 1):
        raise ConfigError("thresholds need one guard, and either --target-fpr or --target-recall")
    if args.write is not None and (args.cascade or args.mean):
        raise ConfigError("--write changes thresholds: leave --cascade and --mean out")
    if args.target_fpr_replies is not None and (args.cascade or args.target_fpr is None):
        raise ConfigError("--target-fpr-replies needs --target-fpr, and thresholds to find")


def _command(args: argparse.Namespace) -> list[str]:
    """The command line, for the comment above its result."""
    out = ["guardproxy", "calibrate", *(str(path) for path in args.data)]
    for name in args.guard or ():
        out += ["--guard", name]
    for option in ("config", "limit", "sample_rate", "target_fpr", "target_fpr_replies", "target_recall"):
        value = getattr(args, option)
        if value is not None:
            out += [f"--{option.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value)]
    if args.columns:
        out += ["--columns", ",".join(f"{ours}={theirs}" for ours, theirs in args.columns.items())]
    flags = ("from_audit", "views", "cascade", "mean")
    return [*out, *(f"--{flag.replace('_', '-')}" for flag in flags if getattr(args, flag))]


def _write(lines: "Sequence[str]", path: Path, policy: str) -> None:
    """Write the thresholds into a policy of the file, if the result is valid. Raises ConfigError."""
    from guardproxy import app
    from guardproxy.settings import load, load_text, replace_text, with_rules

    load(path, os.environ, app.catalogue())
    old = path.read_bytes()
    head = lines.index(_HEAD[-1]) + 1
    try:
        text = with_rules(old.decode().replace("\r\n", "\n"), policy, textwrap.dedent("\n".join(lines[head:])))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        load_text(text, str(path), os.environ, app.catalogue())
    except ConfigError as error:
        hint = f"{path} was not changed: with the new thresholds it would have these mistakes"
        raise ConfigError([hint, *error.problems]) from error
    replace_text(path, old, text)
    print(f"{path}: the thresholds of policy {policy} are changed", file=sys.stderr)


# --- thresholds ------------------------------------------------------------------------------------------------------


def _thresholds(scored: "dict[str, ScoredRows]", args: argparse.Namespace) -> list[str]:
    from guardproxy.evaluation.report import SIDES, pairs_of
    from guardproxy.evaluation.thresholds import Target

    (rows,) = scored.values()
    target = Target("recall", args.target_recall) if args.target_fpr is None else Target("fpr", args.target_fpr)
    replies = target if args.target_fpr_replies is None else Target("fpr", args.target_fpr_replies)
    sides, refused = side_lines(pairs_of(rows), {"user": target, "assistant": replies})
    if not sides:
        raise ConfigError(["no category has enough labels for a threshold", *refused])
    lines = [f"# {_promise(target, replies)}; 95 % intervals in brackets.", *_HEAD]
    if args.from_audit:
        lines.insert(
            1, "# Each labelled record counts for all records of its side and action; numbers of rows are effective."
        )
    for side in SIDES:
        lines += [f"    {line}" for line in sides.get(side, [])]
    missing = [side for side in SIDES if side not in sides]
    lines += [f"    # {side}: no rule, too few labelled rows; write its rules yourself" for side in missing]
    return [*lines, *(f"# refused: {line}" for line in refused)]


def side_lines(pairs: "Sequence[Pair]", targets: "Mapping[Side, Target]") -> "tuple[dict[Side, list[str]], list[str]]":
    """The YAML of each side that has thresholds, with comments, and the reasons why others were refused."""
    from guardproxy.evaluation.thresholds import Threshold, find_thresholds, held_out, side_totals

    results = find_thresholds(pairs, targets["user"], targets["assistant"])
    jointly = targets["user"].measure == "fpr"
    sides: dict[Side, list[str]] = {}
    for totals in side_totals(pairs, results):
        sides[totals.side] = [f"{totals.side}:", f"  # all rules together block {_effect(totals)}"]
    for totals in held_out(pairs, results, targets) if jointly else ():
        sides[totals.side] += [f"  # on rows that their thresholds were not fitted on: {_effect(totals)}"]
    refused: list[str] = []
    for result in results:
        lines = sides.get(result.side)
        if isinstance(result, Threshold):
            condition = f", with_unsafe: {result.with_unsafe:.4f}" if result.with_unsafe else ""
            rule = f"  {result.category}: {{block: {result.threshold:.4f}{condition}}}"
            sides[result.side] += [f"  # {_rows_behind(result)}", rule]
        elif jointly and lines:
            lines += _named_only(result, results)
        else:
            refused.append(f"{result.side} {result.category}: {result.reason}")
    return sides, refused


def _named_only(category: "NoThreshold", results: "Sequence[Threshold | NoThreshold]") -> list[str]:
    """A flag that only names the category of a text that `unsafe` blocks: it applies from the same P(unsafe)."""
    from guardproxy.evaluation.thresholds import Threshold
    from guardproxy.policy import UNSAFE

    (unsafe,) = (
        result.threshold
        for result in results
        if isinstance(result, Threshold) and (result.side, result.category) == (category.side, UNSAFE)
    )
    rule = f"{{flag: {_NAMED_FROM}, with_unsafe: {unsafe:.4f}}}"
    return [f"  # keeps to `unsafe`: {category.reason}", f"  {category.category}: {rule}"]


def _promise(target: "Target", replies: "Target") -> str:
    if target.measure == "recall":
        return f"Each rule alone blocks at least {target.rate:g} of the unsafe rows of its category"
    rates = f"{target.rate:g}" if target == replies else f"{target.rate:g} (user) and {replies.rate:g} (assistant)"
    return f"All rules of a side together block at most {rates} of the benign rows"


def _effect(side: "SideTotals") -> str:
    return f"{_share(side.unsafe)} of the unsafe and {_share(side.benign)} of the benign rows"


def _rows_behind(rule: "Threshold") -> str:
    threshold = f"; threshold {rule.ci[0]:.3f} to {rule.ci[1]:.3f}" if rule.ci else ""
    return f"recall {_share(rule.unsafe)}, false positives {_share(rule.benign)}{threshold}"


def _share(rate: "Rate") -> str:
    """A rate as text, such as `0.97 % [0.70, 1.33] (34 of 3,512)`."""
    if not rate.n:
        return "unknown (no rows)"
    low, high = rate.interval
    return f"{100 * rate.value:.2f} % [{100 * low:.2f}, {100 * high:.2f}] ({rate.hits:,.0f} of {rate.n:,.0f})"


# --- combinations ----------------------------------------------------------------------------------------------------


def _cascade(scored: "dict[str, ScoredRows]", args: argparse.Namespace) -> list[str]:
    from guardproxy.evaluation.combining import bounds

    (first, first_rows), (second, second_rows) = scored.items()
    result: CascadeBounds = bounds(first_rows, second_rows, fpr=args.target_fpr, recall=args.target_recall)
    return [
        f"# Compared with {second} alone, unsafe from {result.threshold:g} on; 95 % intervals in brackets.",
        f"# decided by {first} alone: {_share(result.skipped)} of the rows",
        f"# missed, of the unsafe rows that {second} finds: {_share(result.lost)}",
        f"# called unsafe by the cascade only, of the benign rows: {_share(result.added)}",
        _DESCRIBE_GUARDS,
        "guard:",
        f"  cascade: {{first: {first}, second: {second}, low: {result.low:.4f}, high: {result.high:.4f}}}",
    ]


def _mean(scored: "dict[str, ScoredRows]") -> list[str]:
    from guardproxy.evaluation.combining import MIN_ROWS, weights

    fitted = weights(list(scored.values()))
    if not fitted:
        raise ConfigError(
            f"no category has {MIN_ROWS} positive and {MIN_ROWS} negative rows that every guard has scored; add rows"
        )
    lines = ["# Loss in nats per row of the mean, and in brackets of each guard alone.", _DESCRIBE_GUARDS]
    lines += ["guard:", f"  all: [{', '.join(scored)}]", "  mean:"]
    for mean in fitted:
        weights_text = ", ".join(f"{weight:.3f}" for weight in mean.weights)
        lines += [f"    # {_fit(mean)}", f"    {mean.category}: [{weights_text}]"]
    return lines


def _fit(mean: "MeanWeights") -> str:
    alone = ", ".join(f"{loss:.4f}" for loss in mean.losses)
    return f"{mean.n:,} rows, {mean.positives:,} positive: loss {mean.loss:.4f} ({alone})"


def _target(text: str) -> float:
    """A number strictly between 0 and 1."""
    value = rate(text)
    if value in (0.0, 1.0):
        raise argparse.ArgumentTypeError(f"must be greater than 0 and less than 1, not {text!r}")
    return value
