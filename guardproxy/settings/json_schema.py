"""The JSON schema of a configuration file, for editors.

`python -m guardproxy.settings.json_schema > config/schema.json` writes it.
"""

import json
import sys
from typing import Any

from guardproxy.settings.schema import adapter


def schema() -> str:
    """The schema as JSON text (draft 2020-12), with the description of every option."""
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_without_titles(adapter().json_schema())}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _without_titles(part: Any) -> Any:
    """Remove the titles that pydantic derives from field names: editors would show them above the descriptions."""
    if isinstance(part, list):
        return [_without_titles(element) for element in part]
    if not isinstance(part, dict):
        return part
    return {key: _without_titles(value) for key, value in part.items() if key != "title" or not isinstance(value, str)}


if __name__ == "__main__":
    sys.stdout.write(schema())
