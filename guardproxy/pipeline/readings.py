"""How a message is read that has results of tools: as the user's text, and these by themselves. Pure.

The client says which text is the result of a tool. So it is read as the user's text too, by the guard for such texts
and under the user's rules, unless the policy says otherwise: no text gets milder treatment by another role.
"""

from dataclasses import replace

from guardproxy.pipeline.turns import is_of_tool
from guardproxy.policy import Policy
from guardproxy.toolviews import TOOL
from guardproxy.types import Message


def readings(message: Message, policy: Policy, *, reads_tools: bool, joined: bool = False) -> list[tuple[str, Message]]:
    """The messages to judge in place of one, with the first step of the names of their views.

    Usually only itself, with no step. If the guard or the policy treats results of tools in a way of their own, they
    are a message of the role `tool`, with TOOL; what is read as the user's text is of the role `user`. In a message
    that is `joined` of others, a single result was read with its own message.
    """
    if message.side != "user" or not (reads_tools or policy.tool is not None or not policy.judge.tool_as_user):
        return [("", message)]
    readable = [part for part in message.parts if part.kind != "opaque"]
    results = [part for part in readable if is_of_tool(message, part)]
    own = message if message.role != "tool" else replace(message, role="user")
    if not policy.judge.tool_as_user:
        own = replace(own, parts=tuple([part for part in readable if part not in results]))
    if joined and len(results) == 1 and own.text.strip():
        return [("", own)]
    read = [("", own), (TOOL, Message("tool", tuple(results)))]
    return [(name, one) for name, one in read if one.text.strip() or one.images]
