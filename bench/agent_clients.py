"""Agent libraries as their documentation shows them: each asks one question and returns what its user gets.

A client takes the proxy's URL, a model and a question. It returns a text or an object, or raises what the library does.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import agents
import instructor
import openai
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

Ask = Callable[[str, str, str], Any]


@dataclass(frozen=True)
class Client:
    """A way to ask with a library."""

    name: str
    ask: Ask
    streamed: bool = False


class City(BaseModel):
    """A city."""

    name: str
    country: str


def look_up(city: str) -> str:
    """Look up a city."""
    return f"{city} has nine million people."


def _chat(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


# --- instructor ------------------------------------------------------------------------------------------------------


def _instructor(mode: instructor.Mode) -> Ask:
    def ask(url: str, model: str, question: str) -> Any:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="key") as client:
            asking = instructor.from_openai(client, mode=mode)
            return asking.chat.completions.create(model=model, response_model=City, messages=_chat(question))

    return ask


def _instructor_partial(url: str, model: str, question: str) -> Any:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="key") as client:
        asking = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
        parts = list(asking.chat.completions.create_partial(model=model, response_model=City, messages=_chat(question)))
        return parts[-1] if parts else None


# --- pydantic-ai -----------------------------------------------------------------------------------------------------


def _pydantic_ai(output: Any, *, responses: bool = False, tools: tuple[Any, ...] = (), stream: bool = False) -> Ask:
    async def run(url: str, model: str, question: str) -> Any:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key") as client:
            provider = OpenAIProvider(openai_client=client)
            kind = OpenAIResponsesModel if responses else OpenAIChatModel
            agent = Agent(kind(model, provider=provider), output_type=output, tools=tools)
            if not stream:
                return (await agent.run(question)).output
            async with agent.run_stream(question) as result:
                return "".join([piece async for piece in result.stream_text(delta=True)])

    return lambda *asked: asyncio.run(run(*asked))


# --- openai-agents ---------------------------------------------------------------------------------------------------


def _agents(output: Any, *, responses: bool, stream: bool = False, tools: bool = False) -> Ask:
    async def run(url: str, model: str, question: str) -> Any:
        agents.set_tracing_disabled(disabled=True)
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key") as client:
            kind = agents.OpenAIResponsesModel if responses else agents.OpenAIChatCompletionsModel
            agent = agents.Agent(
                name="a",
                model=kind(model=model, openai_client=client),
                output_type=output,
                tools=[agents.function_tool(look_up)] if tools else [],
            )
            if not stream:
                return (await agents.Runner.run(agent, question)).final_output
            result = agents.Runner.run_streamed(agent, question)
            async for _ in result.stream_events():
                pass
            return result.final_output

    return lambda *asked: asyncio.run(run(*asked))


# --- LangChain -------------------------------------------------------------------------------------------------------


def _langchain(url: str, model: str, *, responses: bool = False) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{url}/v1", api_key="key", model=model, use_responses_api=responses)  # type: ignore[arg-type]


def _langchain_agent(*, form: bool = False, stream: bool = False, responses: bool = False) -> Ask:
    def ask(url: str, model: str, question: str) -> Any:
        more = {"response_format": ToolStrategy(City)} if form else {"tools": [look_up]}
        agent = create_agent(_langchain(url, model, responses=responses), **more)  # type: ignore[arg-type]
        asked: Any = {"messages": _chat(question)}
        if stream:
            pieces = agent.stream(asked, stream_mode="messages")
            return "".join(message.text for message, _ in pieces if message.type != "tool")
        # Without a limit of its own, an agent that only has a schema asks 9,999 times for the call of it.
        found = agent.invoke(asked, {"recursion_limit": 12})
        return found["structured_response"] if form else found["messages"][-1].text

    return ask


def _langchain_structured(method: str) -> Ask:
    return lambda url, model, question: (
        _langchain(url, model).with_structured_output(City, method=method).invoke(question)  # type: ignore[arg-type]
    )


CLIENTS = (
    Client("instructor, `Mode.TOOLS`", _instructor(instructor.Mode.TOOLS)),
    Client("instructor, `Mode.TOOLS`, `create_partial`", _instructor_partial, streamed=True),
    Client("instructor, `Mode.JSON_SCHEMA`", _instructor(instructor.Mode.JSON_SCHEMA)),
    Client("instructor, `Mode.MD_JSON`", _instructor(instructor.Mode.MD_JSON)),
    Client("instructor, `Mode.RESPONSES_TOOLS`", _instructor(instructor.Mode.RESPONSES_TOOLS)),
    Client("pydantic-ai, `output_type=City`", _pydantic_ai(City)),
    Client("pydantic-ai, `NativeOutput`", _pydantic_ai(NativeOutput(City))),
    Client("pydantic-ai, `PromptedOutput`", _pydantic_ai(PromptedOutput(City))),
    Client("pydantic-ai, Responses, `output_type=City`", _pydantic_ai(City, responses=True)),
    Client("pydantic-ai, text and a tool", _pydantic_ai(str, tools=(look_up,))),
    Client("pydantic-ai, text, `run_stream`", _pydantic_ai(str, stream=True), streamed=True),
    Client("openai-agents, chat, `output_type=City`", _agents(City, responses=False)),
    Client("openai-agents, Responses, `output_type=City`", _agents(City, responses=True)),
    Client("openai-agents, chat, text and a tool", _agents(None, responses=False, tools=True)),
    Client("openai-agents, Responses, text and a tool", _agents(None, responses=True, tools=True)),
    Client("openai-agents, chat, `run_streamed`", _agents(None, responses=False, stream=True), streamed=True),
    Client("openai-agents, Responses, `run_streamed`", _agents(None, responses=True, stream=True), streamed=True),
    Client(
        "openai-agents, Responses, `run_streamed`, `output_type=City`",
        _agents(City, responses=True, stream=True),
        streamed=True,
    ),
    Client("LangChain, `with_structured_output`", _langchain_structured("json_schema")),
    Client("LangChain, `method='function_calling'`", _langchain_structured("function_calling")),
    Client("LangChain, agent, `ToolStrategy`", _langchain_agent(form=True)),
    Client("LangChain, agent with a tool", _langchain_agent()),
    Client("LangChain, agent with a tool, Responses", _langchain_agent(responses=True)),
    Client("LangChain, agent with a tool, `stream`", _langchain_agent(stream=True), streamed=True),
)
