"""Fuzz a target for some time: `python -m tests.fuzz wires|apis|frames|settings|views [--seconds N] [--corpus FOLDER]`.

Atheris chooses the inputs by the code that they reach (`pip install --group fuzz`). Each finding, told apart by where
it is raised, is written to `findings` in the folder once; the search goes on. The last line counts the inputs.
"""

import argparse
import hashlib
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import atheris  # type: ignore[import-not-found,unused-ignore]


def main() -> None:
    """Run until the time is over. Ends with status 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=("wires", "apis", "frames", "settings", "views"))
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"), help="inputs that were found, and findings")
    options = parser.parse_args()
    with atheris.instrument_imports(include=["guardproxy"]):
        from tests.fuzz.choices import Choices  # noqa: PLC0415 - atheris must see the imports
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415
    target = TARGETS[options.target]
    inputs = options.corpus / options.target
    inputs.mkdir(parents=True, exist_ok=True)
    findings = options.corpus / "findings"
    findings.mkdir(exist_ok=True)
    seen: dict[str, int] = {}
    runs, until = 0, time.monotonic() + options.seconds

    def one(data: bytes) -> None:
        nonlocal runs
        if time.monotonic() > until:
            print(f"{options.target}: {runs} inputs, findings: {seen or 'none'}", flush=True)
            os._exit(1 if seen else 0)  # libFuzzer takes any other exit for a crash
        runs += 1
        value: Any = target.draw(Choices(data))
        try:
            target.run(value)
        except Exception as error:  # noqa: BLE001 - any exception is a finding
            place = _place(error)
            seen[place] = seen.get(place, 0) + 1
            if seen[place] == 1:
                name = f"{options.target}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"
                (findings / f"{name}{target.suffix}").write_bytes(target.dump(value))
                (findings / f"{name}.traceback").write_text(traceback.format_exc())
                print(f"finding: {place}", flush=True)

    limits = ["-max_len=4096", "-len_control=0", "-timeout=60", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], str(inputs), f"-artifact_prefix={findings}/", *limits], one)
    atheris.Fuzz()


def _place(error: Exception) -> str:
    """What tells a finding from another: the error's type and the last two lines of code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)[-2:]
    return type(error).__name__ + "".join(f" {Path(frame.filename).name}:{frame.lineno}" for frame in frames)


if __name__ == "__main__":
    main()
