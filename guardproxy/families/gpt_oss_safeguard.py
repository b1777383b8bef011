"""gpt-oss-safeguard 20b and 120b: models that reason about a policy text before they label.

OpenAI's guide (cookbook.openai.com/articles/gpt-oss-safeguard-guide) puts the policy and the effort into the system
message and the content into the user's. The server renders harmony, and gives the final channel as the answer's content
and the reasoning beside it. The guide's form of the answer is an object with `violation`, a category and a rationale.
"""

from typing import Final, Literal

from guardproxy.families.labels import AnswerLimits, Form, PolicyText, label_family
from guardproxy.families.shared import one_of
from guardproxy.types import Taxonomy

Effort = Literal["low", "medium", "high"]
_EFFORTS: Final[tuple[Effort, ...]] = ("low", "medium", "high")


def open_family(
    *,
    taxonomy: Taxonomy | None = None,
    policy: str = "",
    effort: Effort = "low",
    response_format: Form = "none",
    max_characters: int = 16_000,
    max_answer_tokens: int = 4_096,
) -> PolicyText:
    """Open gpt-oss-safeguard with `policy`, a policy text, and the `effort` of its reasoning.

    The other options are those of `policy_text`; `max_answer_tokens` include the reasoning. Raises ConfigError for
    invalid options.
    """
    effort = one_of("effort", effort, _EFFORTS)
    limits = AnswerLimits(max_characters, max_answer_tokens)
    return label_family("gpt_oss_safeguard", taxonomy, policy, limits, response_format, effort=effort)
