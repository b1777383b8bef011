"""The JSON schema of a configuration file, for editors.

`python -m guardproxy.settings.json_schema > config/schema.json` writes it.
"""

import json
import sys
from typing import Any

from guardproxy.settings.schema import adapter


def schema() -> str:
    """The schema as JSON text (draft 2020-12), descriptions included."""
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_untitled(adapter().json_schema())}
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def _untitled(part: Any) -> Any:
    """Without the titles that pydantic makes up from field names; an editor shows them above the description."""
    if isinstance(part, list):
        return [_untitled(one) for one in part]
    if not isinstance(part, dict):
        return part
    return {key: _untitled(value) for key, value in part.items() if key != "title" or not isinstance(value, str)}


if __name__ == "__main__":
    sys.stdout.write(schema())
