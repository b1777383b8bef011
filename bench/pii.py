"""What the guard of personal data costs: CPU time for a text of 1,000 characters, and for one that is hostile.

python -m bench.pii
"""

import time

from bench.pages import machine
from guardproxy.families.pii import PiiFamily, open_family

PROSE = "The meeting is at 10:30 on 12 May in room 214, and the report has 96 pages. " * 14
TEXTS = {
    "no number": PROSE[:1000],
    "an address, a phone and a card number": PROSE[:900]
    + " bob.smith@example.com, +49 30 1234567, 4111 1111 1111 1111",
    "digits and spaces alone": "1 " * 500,
    "a table of numbers": ("12.5, 3.25, 7, 1000, 42\n" * 42)[:1000],
    "signs of an address alone": "a." * 200 + "@" + "b-" * 299,
}
_TIMES = 30


def milliseconds(family: PiiFamily, text: str) -> float:
    """The CPU time of a search for all entities, the least of several."""
    family.hits(text)
    times = []
    for _ in range(_TIMES):
        started = time.process_time()
        family.hits(text)
        times.append(time.process_time() - started)
    return 1000 * min(times)


def main() -> None:
    """Print the table."""
    default, more = open_family(), open_family(countries=("us", "uk", "de"))
    one = open_family(phone_regions=("US",))
    started = time.process_time()
    default.load()
    print(f"On {machine()}: Presidio is imported in {time.process_time() - started:.1f} s of CPU time.\n")
    print("| text of 1,000 characters | default | one phone region | with us, uk and de |\n|---|---:|---:|---:|")
    for name, text in TEXTS.items():
        cells = " | ".join(f"{milliseconds(family, text):.2f} ms" for family in (default, one, more))
        print(f"| {name} | {cells} |")


if __name__ == "__main__":
    main()
