"""The options that select audit records, the same for every command: the keys of `sinks.database.Filter`."""

import argparse
from typing import TYPE_CHECKING

from guardproxy.errors import ConfigError

if TYPE_CHECKING:
    from guardproxy.sinks.database import Filter

# Each option with how it is shown and what it means. The values are read by `Filter.from_query`.
_OPTIONS = {
    "since": ("TIME", "from this time on: an age (2h, 7d), today, yesterday, or an ISO 8601 date or time"),
    "until": ("TIME", "before this time"),
    "client": ("HASH", "the hash of the client's key"),
    "user": ("NAME", "the end user: the name, also where the store keeps its hash, or the hash"),
    "session": ("NAME", "the session, in the same way"),
    "side": ("SIDE", "user or assistant"),
    "action": ("ACTION", "pass, flag, rewrite or block"),
    "category": ("NAME", "a category that reached a threshold"),
    "min-score": ("CATEGORY=P", "a probability of at least P, also of `unsafe`; repeatable"),
    "max-score": ("CATEGORY=P", "a probability of at most P, also of `unsafe`; repeatable"),
    "policy": ("NAME", "the policy that decided"),
    "route": ("NAME", "the route of the request"),
    "wire": ("NAME", "the protocol, such as openai_chat"),
    "model": ("NAME", "the model that the request names"),
    "answered-model": ("NAME", "the model that the upstream says has answered"),
    "cause": ("CAUSE", "what decided: verdict, guard_error, overload, opaque or language"),
    "text": ("WORDS", 'a text with all these words; "in quotes": a phrase; word*: words that begin so'),
    "label": ("KIND", "false_positive, correct, false_negative, or none for records without a label"),
    "reviewer": ("NAME", "labelled by this person; with --label, with that label of theirs"),
    "exclusion": ("WHICH", "the id of an exclusion that acted, `any`, or `none`"),
    "shadow": (
        "WHICH",
        "`only` decisions of shadow policies, `with` them, or `without`: the default of list and tail",
    ),
    "request-id": ("ID", "the id of the request"),
}
# Options that stand for `true`, or have a value.
_TRUTHS = {
    "error": "an error occurred; false: none did",
    "sampled": "in the random sample of requests; false: not in it",
    "complete": "judged to its end; false: cut off",
}

FILTERS = tuple(name.replace("-", "_") for name in (*_OPTIONS, *_TRUTHS))
"""The names of the parsed arguments."""


def add_filters(parser: argparse.ArgumentParser, *, policy: str = "policy") -> None:
    """Add the options of the filters to a command. `policy` is the name of the option for the policy that decided."""
    group = parser.add_argument_group("filters", "Only records that match all of them are selected.")
    for name, (shown, meaning) in _OPTIONS.items():
        option = policy if name == "policy" else name
        group.add_argument(f"--{option}", dest=name.replace("-", "_"), action="append", metavar=shown, help=meaning)
    for name, meaning in _TRUTHS.items():
        group.add_argument(f"--{name}", action="append", nargs="?", const="true", metavar="false", help=meaning)


def filter_of(args: argparse.Namespace) -> "Filter":
    """Read the filter from the arguments. Raises ConfigError that names the option."""
    from guardproxy.sinks.database import Filter, FilterError

    query = {name.replace("_", "-"): getattr(args, name) for name in FILTERS}
    try:
        return Filter.from_query({name: values for name, values in query.items() if values})
    except FilterError as error:
        raise ConfigError(f"--{error}") from error
