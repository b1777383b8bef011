"""How many user turns of labelled sets are taken for re-asks: people's questions, none of which is one.

    python -m bench.reasks FILE.jsonl.gz ...

A row has `messages` with `role` and `content`. `re-asks` are those of any request, `of a form` those right behind a
refusal, if the reply must follow a schema or call a tool.
"""

import gzip
import json
import sys
from pathlib import Path

from guardproxy.pipeline.reasks import is_reask


def main() -> None:
    """Print a row for each file, and the sum."""
    total = [0, 0, 0]
    print(f"{'file':40} {'turns':>8} {'re-asks':>8} {'of a form':>10}")
    for name in sys.argv[1:]:
        with gzip.open(name, "rt") as lines:
            rows = [json.loads(line) for line in lines]
        texts = [message["content"] for row in rows for message in row["messages"] if message["role"] == "user"]
        counts = [len(texts), sum(map(is_reask, texts)), sum(is_reask(text, form=True) for text in texts)]
        total = [before + count for before, count in zip(total, counts, strict=True)]
        print(f"{Path(name).name:40} {counts[0]:8,} {counts[1]:8,} {counts[2]:10,}")
    print(f"{'all':40} {total[0]:8,} {total[1]:8,} {total[2]:10,}")


if __name__ == "__main__":
    main()
