"""Measure `guardproxy replay` on a store of many records.

    python -m bench.replay [--rows 100000]

The records are like those of the embedded guard: seven categories, of which few are probable, a text of 200 characters
and one part. The time is CPU time and wall time of the whole command, with the start of Python and the printed report.
"""

import argparse
import asyncio
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from guardproxy import app
from guardproxy.policy import decide
from guardproxy.settings import load_text
from guardproxy.sinks.database import AuditStore, default_store_url
from guardproxy.types import Coverage, Finding, Origin, Record, Usage, Verdict

CATEGORIES = (
    *("violence_hate", "sexual_content", "criminal_planning", "guns_illegal_weapons"),
    *("regulated_substances", "suicide_self_harm", "jailbreak"),
)
FILE = "version: 1\npolicies:\n  default:\n    preset: {preset}\n"
BATCH = 5000


def records(count: int) -> list[Record]:
    """Records of turns about which the preset `balanced` has decided."""
    source = random.Random(0)
    settings = load_text(FILE.format(preset="balanced"), "old.yaml", {}, app.catalogue())
    policy = settings.policies.policies["default"]
    text = "How do I get from the station to the old town without a car? " * 3
    covered = (Coverage("messages[0].content", "user", "text", len(text), judged=True),)
    out: list[Record] = []
    for number in range(count):
        findings = tuple(Finding(category, source.random() ** 12) for category in CATEGORIES)
        unsafe = max(finding.probability for finding in findings)
        verdict = Verdict(unsafe, findings, "embedded", "embedded@1", Usage(0.001, 0.001, 0.03, 40, 0, 1, 1))
        origin = Origin(f"{number:032x}", "default", "openai_chat", "http://upstream", "model", f"{number % 50:016x}")
        decision = decide(policy, "user", verdict)
        out.append(
            Record(
                *(f"{number:032x}", time.time(), origin, "user", 0, 0, "default", policy.version, verdict, decision),
                *("pass" if decision.action in ("pass", "flag") else "refuse", text, covered, 0.03),
            )
        )
    return out


async def fill(folder: Path, rows: int) -> None:
    """Write the records to the embedded store of a data directory."""
    store = AuditStore(default_store_url(str(folder)))
    made = records(rows)
    for start in range(0, rows, BATCH):
        await store.write(made[start : start + BATCH])
    await store.close()


def main() -> None:
    """Fill a store and run the command on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asyncio.run(fill(folder, rows))
        (folder / "new.yaml").write_text(FILE.format(preset="strict"))
        command = [sys.executable, "-m", "guardproxy", "replay", "--policy", str(folder / "new.yaml")]
        began = time.perf_counter()
        subprocess.run([*command, "--data-dir", name, "-n", "1"], check=True)
        wall = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"\n{rows:,} records: {wall:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of CPU")


if __name__ == "__main__":
    main()
