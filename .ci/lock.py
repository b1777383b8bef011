"""Print the exact versions of what a plain installation with PostgreSQL's driver brings: `make lock`.

They are those of the environment in which this runs, found by following the requirements of guardproxy's own
distribution. What only tests, training or the demo need is left out. Builds of one version for a device (`+cpu`) are
that version. Packages that other platforms or GPUs need besides are not in it.
"""

from datetime import UTC, datetime
from importlib.metadata import requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = frozenset({"postgres"})
HEAD = """\
# What a plain installation with PostgreSQL's driver brings, as it was tested on Linux for CPUs on {date}. `make lock`
# writes this file, `make audit` compares it with the known weaknesses of these versions; docs/security.md says what it
# is for.
"""


def main() -> None:
    """Walk the requirements, and print one line for each package."""
    found: dict[str, str] = {}
    open_names = [("guardproxy", EXTRAS)]
    walked = set()
    while open_names:
        name, extras = open_names.pop()
        if (name, extras) in walked:
            continue
        walked.add((name, extras))
        found[name] = version(name).partition("+")[0]
        for line in requires(name) or ():
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                open_names.append((canonicalize_name(need.name), frozenset(need.extras)))
    del found["guardproxy"]
    print(HEAD.format(date=datetime.now(UTC).date()) + "\n".join(f"{name}=={found[name]}" for name in sorted(found)))


if __name__ == "__main__":
    main()
