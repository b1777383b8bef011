"""Any instruct model that is given a policy text and asked for a label, such as Qwen, Llama or Gemma."""

from guardproxy.families.labels import AnswerLimits, Form, PolicyText, label_family
from guardproxy.types import Taxonomy


def open_family(
    *,
    taxonomy: Taxonomy | None = None,
    policy: str = "",
    response_format: Form = "json_schema",
    max_characters: int = 16_000,
    max_answer_tokens: int = 1_024,
) -> PolicyText:
    """Open a model that is given `policy`, a policy text, and asked for a label.

    `response_format` says how the server is asked for JSON: `json_schema` (OpenAI, vLLM, SGLang, llama.cpp, Ollama),
    `json_object` with a schema (llama-cpp-python), or `none`. A text of more than `max_characters` is judged in
    windows; an answer has at most `max_answer_tokens`. Raises ConfigError for invalid options.
    """
    limits = AnswerLimits(max_characters, max_answer_tokens)
    return label_family("policy_text", taxonomy, policy, limits, response_format)
