"""docs/faults.md is what the table of faults says, and every fault of the table is tested."""

import re
from pathlib import Path

from tests.faults.__main__ import FILE, page
from tests.faults.table import PAGE


def test_the_page_is_that_of_the_table() -> None:
    assert FILE.read_text() == page(), "run `python -m tests.faults`"


def test_every_fault_is_tested() -> None:
    """A test runs over the table, or names the fault; those of a store with `audit.required` by the name without it."""
    files = [*Path(__file__).parent.glob("test_*_faults.py"), Path(__file__).parent / "test_memory.py"]
    named = set(re.findall(r'"([\w:-]+)"', "".join(path.read_text() for path in files)))
    over_the_table = {"The upstream", "The guard's service", "A guard in the proxy's process", "Memory"}
    for title, _, faults in PAGE:
        if title not in over_the_table:
            assert [one.name for one in faults if one.name.removeprefix("required-") not in named] == [], title
