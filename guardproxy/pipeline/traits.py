"""What the pipeline has to know of its guard beside the guard itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from guardproxy.patterns import Reach


@dataclass(frozen=True, slots=True)
class GuardTraits:
    """How a guard works.

    `reaches` has the categories of which it looks for patterns, with how far these reach. `reads_tools`: it has a guard
    of its own for the results of tools. Without `has_model`, it knows only what is listed. `tells_canaries`: it
    takes the canaries for harm, which they need not be by a policy text of the operator's.
    """

    reaches: Mapping[str, Reach] = field(default_factory=dict)
    reads_tools: bool = False
    has_model: bool = True
    tells_canaries: bool = True


ORDINARY = GuardTraits()
