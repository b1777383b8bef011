"""`guardproxy calibrate`: find thresholds, a calibration, or how to combine guards, on labelled data; print YAML."""

import argparse
import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardproxy.cli.audited import rate
from guardproxy.cli.calibrate_platt import HEAD, platt_lines
from guardproxy.cli.calibrate_write import check_calibration, write
from guardproxy.cli.evaluate import (
    DATA,
    PLOT_HELP,
    add_inputs,
    draw,
    guard_settings,
    report_failures,
    score_all,
    with_calibration,
)
from guardproxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from guardproxy.evaluation.combining import CascadeBounds, MeanWeights
    from guardproxy.evaluation.metrics import Rate
    from guardproxy.evaluation.report import Pair
    from guardproxy.evaluation.scoring import ScoredRows
    from guardproxy.evaluation.thresholds import NoThreshold, SideTotals, Target, Threshold
    from guardproxy.settings import Settings
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
    "kept, a threshold is refused. With --platt, find the maps that make the guard's probabilities frequencies on this "
    "data; with a target, also the thresholds for them. With --cascade or --mean, find how to combine several guards."
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
    _add_instead(parser)
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="also change the thresholds, and with --platt the calibration, in this configuration file; without "
        "--config, it also names the guard",
    )
    parser.add_argument(
        "--in-policy", default="default", metavar="NAME", help="the policy that --write changes (default: default)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help=PLOT_HELP)
    parser.set_defaults(run=run)


def _add_instead(parser: argparse.ArgumentParser) -> None:
    """Add the options that find something else than thresholds alone."""
    combine = parser.add_mutually_exclusive_group()
    combine.add_argument(
        "--cascade",
        action="store_true",
        help="find the bounds between which a cascade asks the second --guard: they keep --target-recall of the rows "
        "that it finds, and add at most --target-fpr false positives",
    )
    combine.add_argument("--mean", action="store_true", help="find the weight of each --guard in a mean, by category")
    combine.add_argument(
        "--platt",
        action="store_true",
        help="find guard.calibration: by side and category, the Platt scaling with which probabilities are frequencies",
    )


def run(args: argparse.Namespace) -> int:
    """Print the YAML; return 1 if a row got no verdict. Raises ConfigError, also if every category is refused."""
    from guardproxy import app

    _check(args)
    command = f"# {shlex.join(_command(args))}"
    if args.write is not None and args.config is None:
        args.config = str(args.write)
    guards = guard_settings(args)
    for name, settings in guards.items():
        if note := app.label_note(settings):
            raise ConfigError(f"{name}: there is nothing to calibrate: {note}")
    if args.write is not None:
        check_calibration(args.write, *guards.values())
    scored = score_all(args, guards, labels=False)
    if args.cascade or args.mean:
        if args.plot is not None:
            draw(scored, args.plot)
        lines = _cascade(scored, args) if args.cascade else _mean(scored)
    else:
        lines = _of_one_guard(scored, guards, args)
    print("\n".join([command, *lines]))
    return report_failures(scored.values())


def _of_one_guard(
    scored: "dict[str, ScoredRows]", guards: "Mapping[str, Settings]", args: argparse.Namespace
) -> list[str]:
    """The calibration and the thresholds of a guard, as asked; they are drawn and written as well, if asked."""
    from guardproxy.calibration import UNCALIBRATED
    from guardproxy.evaluation.platt import calibration_of, fit_calibration
    from guardproxy.evaluation.report import pairs_of
    from guardproxy.evaluation.scoring import calibrated

    ((name, rows),) = scored.items()
    (settings,) = guards.values()
    known = settings.guard.calibration or UNCALIBRATED
    shown, maps, calibration = with_calibration(scored, guards), [], None
    if args.platt:
        results = fit_calibration(pairs_of(rows))
        maps, calibration = platt_lines(results), calibration_of(results, known)
        shown = {f"{name}, before": shown[name], f"{name}, calibrated": calibrated(rows, calibration)}
    if args.plot is not None:
        draw(shown, args.plot)
    if args.target_fpr is None and args.target_recall is None:
        return maps
    lines = _thresholds(list(shown.values())[-1], args)
    if args.write is not None:
        write(args.write, args.in_policy, _below(_HEAD, lines), _below(HEAD, maps), calibration)
    return [*maps, *lines]


def _below(head: "Sequence[str]", lines: "Sequence[str]") -> str:
    """The lines below the last one of a head, without their indentation."""
    return textwrap.dedent("\n".join(lines[lines.index(head[-1]) + 1 :])) if lines else ""


def _check(args: argparse.Namespace) -> None:
    guards = len(args.guard or [None])
    targets = [target for target in (args.target_fpr, args.target_recall) if target is not None]
    if args.cascade and (guards != 2 or len(targets) != 2):
        raise ConfigError("--cascade needs two --guard, the faster guard first, and --target-fpr and --target-recall")
    if args.mean and (guards < 2 or targets):
        raise ConfigError("--mean needs two --guard or more, and neither --target-fpr nor --target-recall")
    if args.platt and (guards != 1 or len(targets) > 1):
        raise ConfigError("--platt needs one guard, and at most one of --target-fpr and --target-recall")
    if not (args.cascade or args.mean or args.platt) and (guards != 1 or len(targets) != 1):
        raise ConfigError("thresholds need one guard, and either --target-fpr or --target-recall")
    if args.write is not None and args.platt and not targets:
        raise ConfigError(
            "--write: with another calibration, the file's thresholds mean something else; name --target-fpr or "
            "--target-recall, so that new thresholds are found with it"
        )
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
    flags = ("from_audit", "views", "cascade", "mean", "platt")
    return [*out, *(f"--{flag.replace('_', '-')}" for flag in flags if getattr(args, flag))]


# --- thresholds ------------------------------------------------------------------------------------------------------


def _thresholds(rows: "ScoredRows", args: argparse.Namespace) -> list[str]:
    from guardproxy.evaluation.report import SIDES, pairs_of
    from guardproxy.evaluation.thresholds import Target

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
