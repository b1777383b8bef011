"""Pages that quote code, commands or files agree with them."""

import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import guardproxy
from guardproxy import actions, families, sinks, wires
from guardproxy.app import catalogue
from guardproxy.errors import ConfigError, GuardproxyError
from guardproxy.settings import load_text
from tests.kit import serve

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")])
INDEX = ROOT / "docs" / "index.md"


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a language in a page."""
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)


def links(page: Path) -> list[str]:
    """The targets of a page's links, without their anchors."""
    return re.findall(r"\]\(([^)#\s]+)", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_whole_configurations_are_valid(page: Path) -> None:
    """Every YAML block that starts with `version: 1` is a valid configuration."""
    for block in blocks(page, "yaml"):
        if block.startswith("version: 1"):
            env = dict.fromkeys(re.findall(r"\$\{env:(\w+)\}", block), f"{'A' * 43}=")  # a key of every kind
            load_text(block, page.name, env, catalogue())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_blocks_compile(page: Path) -> None:
    """Every Python block compiles."""
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that exists."""
    for target in links(page):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_index_lists_every_page() -> None:
    """docs/index.md links to every other page of the repository, the training's and the model card included."""
    others = [ROOT / "training" / "README.md", *(ROOT / "guardproxy").rglob("*.md")]
    listed = {(INDEX.parent / target).resolve() for target in links(INDEX) if "://" not in target}
    assert [page for page in [*PAGES, *others] if page != INDEX and page.resolve() not in listed] == []


def test_moved_names_exist() -> None:
    """Every new place that docs/upgrading.md names for a user's own imports exists."""
    rows = re.findall(r"^\| `guardproxy\..*\| (.*) \|$", (ROOT / "docs" / "upgrading.md").read_text(), re.MULTILINE)
    names = re.findall(r"`(guardproxy\.[\w.]+)`", " ".join(rows))
    assert names
    for name in names:
        pkgutil.resolve_name(name)


def test_lengths() -> None:
    """The README and the map stay short."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 120


def test_the_presets_have_the_same_rates_everywhere() -> None:
    """README's table of presets is that of docs/evaluation.md, and the packaged file has the shares of its rows."""
    between = re.compile(r"<!-- presets: begin -->\n(.*)\n<!-- presets: end -->", re.DOTALL)
    table = between.search((ROOT / "README.md").read_text())
    assert table is not None
    assert table[1] in (ROOT / "docs" / "evaluation.md").read_text()
    packaged = (ROOT / "guardproxy" / "settings" / "presets.yaml").read_text()
    shares = re.findall(
        r"(?:with the rules of `user`:|\bassistant:\n.*block) ([\d.]+) % .* of the unsafe and ([\d.]+) % ", packaged
    )
    rows = [line.split("|")[2:6] for line in table[1].splitlines() if line.startswith("| `")]
    cells = [float(cell.split()[0]) for row in rows for cell in row]
    assert cells == pytest.approx([float(share) for pair in shares for share in pair], abs=0.051)


def test_rooms_are_on_the_map() -> None:
    """Every room of the package is in ARCHITECTURE.md."""
    page = (ROOT / "ARCHITECTURE.md").read_text()
    package = ROOT / "guardproxy"
    rooms = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert [room for room in rooms if not room.startswith("__") and f"`{room}`" not in page] == []


@pytest.mark.parametrize(
    ("registry", "page"),
    [
        (wires.REGISTRY, "docs/wires.md"),
        (families.REGISTRY, "docs/families.md"),
        (sinks.REGISTRY, "docs/audit.md"),
        (actions.REGISTRY, "docs/configuration.md"),
    ],
    ids=["wires", "families", "sinks", "actions"],
)
def test_every_plug_in_is_documented(registry: dict[str, str], page: str) -> None:
    """Every registered name is on its page."""
    text = (ROOT / page).read_text()
    assert [name for name in registry if f"`{name}`" not in text] == []


def test_headers_and_errors_are_documented() -> None:
    """docs/wires.md names every header that guardproxy adds, and every error with its status."""
    page = (ROOT / "docs" / "wires.md").read_text()
    source = (ROOT / "guardproxy" / "web" / "call.py").read_text()
    assert [name for name in re.findall(r'\(b"((?:x|server)-[a-z-]+)", ', source) if f"`{name}`" not in page] == []
    classes: list[type[GuardproxyError]] = [GuardproxyError]
    while classes:
        error = classes.pop()
        classes += error.__subclasses__()
        # A mistake in the configuration stops the start, so no client receives it.
        if error is not ConfigError:
            assert re.search(rf"^\| {error.status} \|.*`{error.code}`", page, re.MULTILINE), error


def test_readme_commands_exist() -> None:
    """Every command that the README lists answers `--help`."""
    text = (ROOT / "README.md").read_text()
    section = text.split("## Commands")[1].split("\n\n")[1]
    for line in section.splitlines():
        command = shlex.split(line)[1]
        done = subprocess.run(
            [sys.executable, "-m", "guardproxy", command, "--help"], capture_output=True, timeout=150, check=False
        )
        assert done.returncode == 0, command


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_health_check_of_the_image(status: int, healthy: bool) -> None:
    """The Dockerfile's check requests /readyz, even if the environment names a proxy."""
    command = re.search(r"^HEALTHCHECK .*\n +CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert command is not None
    _, *arguments = json.loads(command[1])

    async def ready(request: Request) -> Response:
        return Response(status_code=status)

    with serve(Starlette(routes=[Route("/readyz", ready)])) as url:
        env = {**os.environ, "http_proxy": "http://127.0.0.1:9", "GUARDPROXY_HEALTH_URL": f"{url}/readyz"}
        done = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, timeout=150, check=False)
    assert (done.returncode == 0) is healthy


def test_the_changelog_has_this_version() -> None:
    """The newest version in the changelog is the package's."""
    newest = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == guardproxy.__version__


def test_the_model_card_names_every_output() -> None:
    """The embedded guard's card names every output in its configuration."""
    folder = ROOT / "guardproxy" / "weights" / "embedded"
    labels = json.loads((folder / "large" / "config.json").read_text())["id2label"].values()
    card = (folder / "README.md").read_text()
    assert [label for label in labels if label not in card] == []
