"""Another reply in the place of one that was withheld."""

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import structlog

from guardproxy.errors import GuardproxyError, UpstreamUnavailable
from guardproxy.observe import UpstreamMetrics
from guardproxy.pipeline import AskAgain, Exchange, RequestReview
from guardproxy.policy import OnUnavailable, Policy
from guardproxy.types import Refuse
from guardproxy.web.call import Call
from guardproxy.web.upstream import UpstreamResponse
from guardproxy.wires.shared.usage import with_earlier

log = structlog.get_logger("guardproxy.proxy")


def may_ask_again(call: Call, exchange: Exchange) -> bool:
    """Whether the policy allows one more reply: by their number, and by the time since the request came."""
    rewrite = exchange.policy.rewrite
    in_time = time.perf_counter() - call.began < rewrite.retry_s
    possible = exchange.request.instructible and exchange.request.repeatable
    return possible and in_time and exchange.attempt <= rewrite.tries


async def ask_again(
    call: Call,
    review: RequestReview,
    withheld: AskAgain,
    *,
    send: Callable[[bytes], AbstractAsyncContextManager[UpstreamResponse]],
    answer: Callable[[Exchange, UpstreamResponse], Awaitable[None]],
    metrics: UpstreamMetrics,
) -> None:
    """Ask for replies until `answer` has sent one.

    `review` is that of the request whose reply was `withheld`. If a further request fails in any way, the failure is
    logged, and the client gets the latest refusal: the reply that it stands for has a verdict. A failure in the middle
    of a reply that the client has begun to read is raised.
    """
    exchange = replace(review.exchange, policy=_judging_everything(review.exchange.policy))
    name = call.responses[-1].upstream.name
    while True:
        refusal = withheld.refusal
        call.judged("rewrite", refusal.categories, "full")
        call.attempts = exchange.attempt + 1
        read, written = exchange.earlier
        earlier = (read + withheld.usage[0], written + withheld.usage[1])
        exchange = replace(exchange, attempt=call.attempts, earlier=earlier)
        log.info("reply_asked_again", attempt=exchange.attempt, categories=refusal.categories)
        try:
            async with send(exchange.wire.instructed(exchange.request, review.body, refusal.again)) as response:
                if not 200 <= response.status < 300:
                    raise UpstreamUnavailable(f"the upstream answers with status {response.status}")
                await answer(exchange, response)
        except AskAgain as again:
            metrics.asked_again(name, "withheld")
            withheld = again
            continue
        except GuardproxyError as error:
            metrics.asked_again(name, "failed")
            if call.has_reply:
                raise
            log.warning("reply_not_regenerated", attempt=exchange.attempt, code=error.code, error=str(error))
            await _withhold(call, exchange, refusal)
            return
        metrics.asked_again(name, "withheld" if call.refused or call.action == "block" else "passed")
        return


def _judging_everything(policy: Policy) -> Policy:
    """The policy without leave for replies that the guard has not judged: the reply before had a verdict."""
    return replace(
        policy, on_guard_error=_without_leave(policy.on_guard_error), on_overload=_without_leave(policy.on_overload)
    )


def _without_leave(setting: OnUnavailable) -> OnUnavailable:
    return "error" if setting in ("flag", "allow") else setting


async def _withhold(call: Call, exchange: Exchange, refusal: Refuse) -> None:
    """Send a refusal; as the end of a stream, if one has begun with a comment."""
    call.judged("block", refusal.categories, "full")
    if not call.status:
        answer = exchange.wire.refuse(exchange.request, refusal)
        answer = replace(answer, body=with_earlier(answer.body, exchange.earlier))
        await call.send_answer(answer, retry=False)
        return
    stream = exchange.wire.open_stream(exchange.request, call.stream_type)
    await call.end(with_earlier(stream.end(0, refusal) + stream.close(), exchange.earlier))
