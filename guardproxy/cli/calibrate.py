"""`guardproxy calibrate`: thresholds, and how to combine guards, from labelled data; printed as YAML."""

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from guardproxy.cli.evaluate import DATA, add_inputs, opened, rate, scored, tell_failures
from guardproxy.errors import ConfigError

if TYPE_CHECKING:
    from guardproxy.evaluation.combining import Bounds, Weight
    from guardproxy.evaluation.metrics import Rate
    from guardproxy.evaluation.scoring import Scored
    from guardproxy.evaluation.thresholds import Found, Target, Together


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "calibrate",
        help="thresholds from labelled data",
        description="Find thresholds on labelled data and print them as YAML for a policy, with the rows behind each "
        "and 95 % intervals. A category with too few labels to show that its target is kept is refused. With --cascade "
        "or --mean, find how to combine several guards instead.",
        epilog=DATA,
    )
    add_inputs(parser)
    parser.add_argument(
        "--target-fpr",
        type=_share,
        metavar="X",
        help="all rules of a side together block at most this share of benign rows",
    )
    parser.add_argument(
        "--target-recall",
        type=_share,
        metavar="X",
        help="each rule blocks at least this share of the rows of its category",
    )
    combine = parser.add_mutually_exclusive_group()
    combine.add_argument(
        "--cascade",
        action="store_true",
        help="the bounds between which the second --guard is asked after the first: they keep --target-recall of what "
        "the second finds, and add at most --target-fpr false positives",
    )
    combine.add_argument("--mean", action="store_true", help="the weight of each --guard in a mean, by category")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the YAML; 1 where a row got no verdict. Raises ConfigError, also where every category is refused."""
    _check(args)
    found = scored(args, opened(args))
    command = f"# {shlex.join(_command(args))}"
    if args.cascade:
        print("\n".join([command, *_cascade(found, args)]))
    elif args.mean:
        print("\n".join([command, *_mean(found)]))
    else:
        print("\n".join([command, *_thresholds(found, args)]))
    return tell_failures(found.values())


def _check(args: argparse.Namespace) -> None:
    guards = len(args.guard or [None])
    targets = [target for target in (args.target_fpr, args.target_recall) if target is not None]
    if args.cascade and (guards != 2 or len(targets) != 2):
        raise ConfigError("--cascade needs two --guard, the cheap one first, --target-fpr and --target-recall")
    if args.mean and (guards < 2 or targets):
        raise ConfigError("--mean needs two --guard or more, and no target")
    if not (args.cascade or args.mean) and (guards != 1 or len(targets) != 1):
        raise ConfigError("thresholds need one guard, and either --target-fpr or --target-recall")


def _command(args: argparse.Namespace) -> list[str]:
    """The command that was given, for the comment over its result."""
    out = ["guardproxy", "calibrate", *(str(path) for path in args.data)]
    for name in args.guard or ():
        out += ["--guard", name]
    for option in ("config", "limit", "target_fpr", "target_recall"):
        value = getattr(args, option)
        if value is not None:
            out += [f"--{option.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value)]
    if args.columns:
        out += ["--columns", ",".join(f"{ours}={theirs}" for ours, theirs in args.columns.items())]
    return [*out, *(f"--{flag}" for flag in ("views", "cascade", "mean") if getattr(args, flag))]


# --- thresholds ------------------------------------------------------------------------------------------------------


def _thresholds(found: "dict[str, Scored]", args: argparse.Namespace) -> list[str]:
    from guardproxy.evaluation.report import SIDES, pairs_of
    from guardproxy.evaluation.thresholds import Found, Refused, Target, search, together

    (one,) = found.values()
    pairs = pairs_of(one)
    target = Target("recall", args.target_recall) if args.target_fpr is None else Target("fpr", args.target_fpr)
    results = search(pairs, target)
    kept = [result for result in results if isinstance(result, Found)]
    refused = [f"{one.side} {one.category}: {one.why}" for one in results if isinstance(one, Refused)]
    if not kept:
        raise ConfigError(["no category has the labels that a threshold needs", *refused])
    lines = [f"# {_promise(target)}; 95 % intervals in brackets.", "policies:", "  default:"]
    found_for = together(pairs, results)
    for side in found_for:
        lines += [f"    {side.side}:  # {_together(side)}"]
        for rule in (rule for rule in kept if rule.side == side.side):
            lines += [f"      # {_rows_behind(rule)}", f"      {rule.category}: {{block: {rule.threshold:.4f}}}"]
    without = set(SIDES) - {side.side for side in found_for}
    lines += [f"    # {side}: no rule, for want of labelled rows; write its rules yourself" for side in sorted(without)]
    return [*lines, *(f"# refused: {line}" for line in refused)]


def _promise(target: "Target") -> str:
    if target.measure == "fpr":
        return f"All rules of a side together block at most {target.rate:g} of the benign rows"
    return f"Each rule alone blocks at least {target.rate:g} of the unsafe rows of its category"


def _together(side: "Together") -> str:
    return f"all rules together block {_told(side.unsafe)} of the unsafe and {_told(side.benign)} of the benign rows"


def _rows_behind(rule: "Found") -> str:
    ci = f"{rule.ci[0]:.3f} to {rule.ci[1]:.3f}" if rule.ci else "unknown"
    return f"recall {_told(rule.unsafe)}, false positives {_told(rule.benign)}; threshold {ci}"


def _told(share: "Rate") -> str:
    """As `0.97 % [0.70, 1.33] (34 of 3,512)`."""
    if not share.n:
        return "unknown (no rows)"
    low, high = share.interval
    return f"{100 * share.value:.2f} % [{100 * low:.2f}, {100 * high:.2f}] ({share.hits:,} of {share.n:,})"


# --- combinations ----------------------------------------------------------------------------------------------------


def _cascade(found: "dict[str, Scored]", args: argparse.Namespace) -> list[str]:
    from guardproxy.evaluation.combining import bounds

    (cheap, first), (dear, second) = found.items()
    result: Bounds = bounds(first, second, fpr=args.target_fpr, recall=args.target_recall)
    return [
        f"# Against {dear} alone, unsafe from {result.threshold:g} on; 95 % intervals in brackets.",
        f"# decided by {cheap} alone: {_told(result.skipped)} of the rows",
        f"# let go, of the unsafe rows that {dear} finds: {_told(result.lost)}",
        f"# called unsafe beside it, of the benign rows: {_told(result.added)}",
        "# What the guards are goes under `guards:`, by name, unless it is the embedded one.",
        "guard:",
        f"  cascade: {{first: {cheap}, second: {dear}, low: {result.low:.4f}, high: {result.high:.4f}}}",
    ]


def _mean(found: "dict[str, Scored]") -> list[str]:
    from guardproxy.evaluation.combining import ROWS, weights

    fitted = weights(list(found.values()))
    if not fitted:
        raise ConfigError(f"no category has {ROWS} rows of it and {ROWS} not of it that every guard has scored")
    lines = ["# Loss in nats per row: of the mean, and in brackets of each guard alone."]
    lines += ["# What the guards are goes under `guards:`, by name, unless it is the embedded one."]
    lines += ["guard:", f"  all: [{', '.join(found)}]", "  mean:"]
    for one in fitted:
        shares = ", ".join(f"{weight:.3f}" for weight in one.weights)
        lines += [f"    # {_fit(one)}", f"    {one.category}: [{shares}]"]
    return lines


def _fit(one: "Weight") -> str:
    alone = ", ".join(f"{loss:.4f}" for loss in one.losses)
    return f"{one.n:,} rows, {one.positives:,} of it: loss {one.loss:.4f} ({alone})"


def _share(text: str) -> float:
    """A number strictly between 0 and 1."""
    value = rate(text)
    if value in (0.0, 1.0):
        raise argparse.ArgumentTypeError(f"must be over 0 and under 1, not {text!r}")
    return value
