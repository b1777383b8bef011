"""Ollama's embeddings: `/api/embed`, and the older `/api/embeddings` with one prompt.

Reference: Ollama's API documentation, "Generate embeddings".
"""

import re
from collections.abc import Mapping
from typing import Any

from guardproxy.ports import Answer, Wire
from guardproxy.wires.shared.body import dumps
from guardproxy.wires.shared.embedding import EmbeddingWire, vector
from guardproxy.wires.shared.parts import FieldMap, error_text, handled_in_code, keys, list_of, name
from guardproxy.wires.shared.reply_info import InfoKeys
from guardproxy.wires.shared.streams import JSON

SETTINGS: FieldMap = {
    "model": name,
    **keys("stream truncate dimensions options keep_alive"),
    **keys("input prompt", handled_in_code),
}
REPLY: FieldMap = {
    "model": name,
    **keys("total_duration load_duration prompt_eval_count"),
    "embeddings": list_of(vector),
    "embedding": vector,
    "error": error_text,
}


class OllamaEmbed(EmbeddingWire):
    """The wire of Ollama's embeddings."""

    name = "ollama_embed"
    paths = re.compile(r"/api/embed(?:dings)?")
    settings = SETTINGS
    reply = REPLY
    info_keys = InfoKeys("", "model", "", "prompt_eval_count", ())
    inputs = ("input", "prompt")

    def error(self, status: int, code: str, message: str, reason: Mapping[str, Any] | None = None) -> Answer:
        """Return Ollama's error body."""
        return Answer(status, JSON, dumps({"error": message, "code": code, **(reason or {})}))


wire: Wire = OllamaEmbed()
