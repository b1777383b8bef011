"""What agent libraries make of a guarded proxy: a table for docs/clients.md.

    python -m bench.agents [--only WORD] [--node-modules FOLDER] [--all]

Every library of `agent_clients` asks the questions of `agent_model` through the proxy, with a guard that knows a few
words, in front of a scripted model. A cell has what the library gives its user, and behind it the requests of the
library and the calls of the model; `--all` prints the whole texts as well. `invented` marks an answer to a question
that no model has read. The exit status is 1 if a blocked question got one.

The libraries are not among this project's own: `pip install instructor 'pydantic-ai-slim[openai]' openai-agents
langchain langchain-openai`, and `npm install ai @ai-sdk/openai zod` in the folder that `--node-modules` names.
"""

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog

from bench.agent_clients import CLIENTS, Client
from bench.agent_model import INVENTED, PROMPTS, QUESTION, REPLIES, Model
from guardproxy.policy import BlockPolicy, PolicySet, Route, StreamPolicy
from guardproxy.web.upstream import Upstream
from tests.conformance.watch import Watch, watching
from tests.kit import serve
from tests.web.kit import guarded, policy

BY_COMPLETION = policy(stream=StreamPolicy(every=10))
BY_ERROR = replace(BY_COMPLETION, name="error", block=BlockPolicy(how="error"))
NODE = (
    "chat, text and a tool",
    "Responses, text and a tool",
    "chat, `generateObject`",
    "Responses, `generateObject`",
    "Responses, `Output.object`",
    "chat, `streamText`",
    "Responses, `streamText`",
)
PACKAGES = ("instructor", "pydantic-ai-slim", "openai-agents", "langchain", "langchain-openai", "openai")
# The columns: the model of the request, which chooses the policy, and the question.
COLUMNS = {
    "question blocked": ("m", QUESTION + PROMPTS["blocked"]),
    "as an error": ("error", QUESTION + PROMPTS["blocked"]),
    "answer blocked, or cut": ("m", QUESTION + REPLIES["blocked"]),
    "answer rewritten": ("m", QUESTION + REPLIES["rewritten"]),
    "question rewritten": ("m", QUESTION + PROMPTS["rewritten"]),
    "harmless": ("m", QUESTION + PROMPTS["harmless"]),
}


@dataclass(frozen=True)
class Cell:
    """What a library made of one question."""

    gave: str
    requests: int
    calls: int
    invented: bool
    value: str

    def __str__(self) -> str:
        return f"{'**invented** ' if self.invented else ''}{self.gave}, {self.requests}/{self.calls}"


@contextmanager
def standing() -> Iterator[tuple[Model, Watch]]:
    """The proxy between a model and a watch."""
    model = Model()
    policies = PolicySet({"default": BY_COMPLETION, "error": BY_ERROR}, (Route("error", "error", model="error"),))
    with (
        serve(model) as below,
        serve(guarded(Upstream(below), policies=policies)) as url,
        watching(url) as watch,
    ):
        yield model, watch


def cell_of(client: Client, model: Model, watch: Watch, name: str, question: str) -> Cell:
    """Ask, and say what came of it."""
    model.seen.clear()
    watch.crossed.clear()
    try:
        value = client.ask(watch.url, name, question)
    except Exception as error:  # noqa: BLE001 - whatever a library raises is what its user has to catch
        value, gave = "", f"`{type(error).__name__}`"
        said = f"{type(error).__module__}: {error}"
    else:
        gave, said = _kind(value), str(value)
    return Cell(gave, len(watch.crossed), len(model.seen), INVENTED in str(value), said)


def _kind(value: Any) -> str:
    """In a word or two, what a library returned."""
    text = value if isinstance(value, str) else str(value)
    if value is None:
        return "None"
    if not isinstance(value, str):
        return "object with `[removed by policy]`" if "removed by" in text else "object"
    if BlockPolicy().message in text:
        return "the refusal's text" if text.startswith(BlockPolicy().message) else "text, then the refusal's"
    if BlockPolicy().closing in text:
        return "text and closing sentence"
    return "rewritten text" if "removed by" in text else "text" if text.strip() else "empty text"


class NodeError(Exception):
    """An exception of the Vercel AI SDK."""


def node_clients(folder: Path) -> Iterator[Client]:
    """The clients of `agents.mjs`."""
    for name in NODE:
        yield Client(f"Vercel AI SDK, {name}", _asked_by_node(folder, name), streamed="stream" in name)


def _asked_by_node(folder: Path, name: str) -> Any:
    script = Path(__file__).with_suffix(".mjs")

    def ask(url: str, model: str, question: str) -> Any:
        command = ["node", str(script), url, model, question, name]
        environment = {**os.environ, "NODE_MODULES": str(folder)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if not lines:
            raise NodeError(done.stderr[-500:])
        answer = json.loads(lines[-1])
        if "error" in answer:
            raise type(answer["error"], (NodeError,), {})(answer["message"])
        return answer["value"]

    return ask


def versions(folder: Path | None) -> str:
    """The versions of the libraries, as a sentence has them."""
    named = [f"{name} {version(name)}" for name in PACKAGES]
    for name in ("ai", "@ai-sdk/openai") if folder else ():
        package = json.loads((folder / "node_modules" / name / "package.json").read_text())  # type: ignore[operator]
        named.append(f"{name} {package['version']}")
    return ", ".join(named)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only clients whose name matches this expression")
    parser.add_argument("--node-modules", type=Path, help="the folder in which `npm install` ran")
    parser.add_argument("--all", action="store_true", help="the whole texts, a line each")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    clients = [*CLIENTS, *(node_clients(options.node_modules) if options.node_modules else ())]
    invented = False
    print(versions(options.node_modules), "\n")
    print("|", " | ".join(["client", *COLUMNS]), "|")
    print("|", " | ".join(["---"] * (len(COLUMNS) + 1)), "|")
    with standing() as (model, watch):
        for client in clients:
            if not re.search(options.only, client.name):
                continue
            cells = {name: cell_of(client, model, watch, *asked) for name, asked in COLUMNS.items()}
            print("|", " | ".join([client.name, *map(str, cells.values())]), "|", flush=True)
            invented |= cells["question blocked"].invented or cells["as an error"].invented
            for name, cell in cells.items() if options.all else ():
                print(f"    {name}: {cell.value!r}")
    return int(invented)


if __name__ == "__main__":
    sys.exit(main())
