"""`guardproxy moderate`: judge a text, or the last turn of a conversation."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardproxy.errors import Unreadable
from guardproxy.toolviews import TOOL, is_of_tool

if TYPE_CHECKING:
    from guardproxy.moderation import Moderation
    from guardproxy.types import Finding


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "moderate",
        help="judge a text",
        description="Judge a text, or the last turn of a conversation, and decide by the default policy.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("text", nargs="?", metavar="TEXT", help="the text; - reads it from standard input")
    source.add_argument("--chat", metavar="FILE.json", help='a conversation: [{"role": "user", "content": "..."}, ...]')
    parser.add_argument(
        "--as",
        dest="side",
        choices=("user", "assistant"),
        help="the side of the text (default: the last message's role with --chat, else user)",
    )
    parser.add_argument("--config", metavar="FILE", help="the configuration (default: the built-in one)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the verdict and the decision; return 0. Raises ConfigError, Unreadable, GuardUnavailable."""
    chat = _chat(args)
    from guardproxy.moderation import moderate

    result = moderate(chat, side=args.side, config=args.config)
    print(json.dumps(result.as_dict()) if args.json else render(result))
    return 0


def _chat(args: argparse.Namespace) -> Any:
    if args.chat is None:
        text = _standard_input() if args.text == "-" else args.text
        return [{"role": args.side or "user", "content": text}]
    try:
        return json.loads(Path(args.chat).read_text("utf-8"))
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}", args.chat) from error
    except ValueError as error:
        raise Unreadable(f"is not JSON: {error}", args.chat) from error


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable("is not UTF-8", "standard input") from error


def _name(finding: "Finding") -> str:
    """The category, and whether it was found in the results of tools, which have rules of their own."""
    return f"{finding.category} ({TOOL})" if is_of_tool(finding.view) else finding.category


def render(result: "Moderation") -> str:
    """The result as readable text: every probability, the decision with its reasons, guard, policy and time."""
    findings = sorted(result.verdict.findings, key=lambda finding: -finding.probability)
    rows = [("unsafe", result.verdict.unsafe), *((_name(finding), finding.probability) for finding in findings)]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {probability:.4f}" for name, probability in rows]
    how = f" ({result.decision.how})" if result.decision.how else ""
    lines += ["", f"decision: {result.decision.action}{how}"]
    lines += [
        f"  {reason.action}: {reason.category} {reason.probability:.4f} reaches {reason.thresholds}"
        for reason in result.decision.reasons
    ]
    if result.verdict.view != "text":
        lines.append(f"  P(unsafe) was found in the view {result.verdict.view}")
    if result.unread:
        lines.append(f"  language that the guard does not read: {', '.join(result.unread)}")
    verdict = result.verdict
    lines.append(f"guard {verdict.guard}, taxonomy {verdict.taxonomy}, policy {result.policy}@{result.policy_version}")
    lines.append(f"judged as {result.side} in {result.seconds * 1000:.1f} ms")
    return "\n".join(lines)
