"""OpenAI embeddings (`/v1/embeddings`), also as vLLM, TEI, LM Studio and others serve them, and Azure's deployments.

Reference: OpenAI API reference, "Create embeddings". The official Python client asks for base64 unless told otherwise.
"""

import re

from guardproxy.ports import Wire
from guardproxy.wires.shared import openai
from guardproxy.wires.shared.embedding import EmbeddingWire, vector
from guardproxy.wires.shared.parts import (
    FieldMap,
    error_text,
    handled_in_code,
    keys,
    labels,
    list_of,
    name,
    object_with,
)
from guardproxy.wires.shared.reply_info import OPENAI

SETTINGS: FieldMap = {
    **keys("model request_id input_type task", name),
    **keys("user metadata provider", labels),
    **keys("encoding_format dimensions stream truncate truncate_prompt_tokens add_special_tokens normalize priority"),
    **keys("output_dimension output_dtype embedding_type"),
    "input": handled_in_code,
}
REPLY: FieldMap = {
    **keys("object usage created"),
    **keys("id model provider", name),
    "data": list_of(object_with({**keys("object index"), "embedding": vector})),
    "error": error_text,
}


class OpenAIEmbeddings(EmbeddingWire, openai.OpenAIWire):
    """The wire of `/v1/embeddings`."""

    name = "openai_embeddings"
    paths = re.compile(r"(?:/openai)?(?:/v1)?/embeddings|/api/v1/embeddings|/openai/deployments/[^/]+/embeddings")
    settings = SETTINGS
    reply = REPLY
    info_keys = OPENAI
    inputs = ("input",)


wire: Wire = OpenAIEmbeddings()
