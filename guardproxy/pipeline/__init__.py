"""The course of an exchange: judge, decide, act and record, for requests, whole replies, streams and upstream errors.

The fail direction is in one place, `judging.Judging.judge`: a guard that fails or is overloaded is *unavailable*,
never *safe*, and the policy decides what to do then.
"""

from guardproxy.pipeline.exchange import Exchange, JudgedTurn
from guardproxy.pipeline.exclusions import Exclusions
from guardproxy.pipeline.gathering import gathered
from guardproxy.pipeline.growing import GrowingReplies
from guardproxy.pipeline.judging import Judging
from guardproxy.pipeline.moderating import moderated
from guardproxy.pipeline.pipeline import ErrorReview, Pipeline, ReplyReview, RequestReview
from guardproxy.pipeline.stream import RefusedBeforeStart
from guardproxy.pipeline.thread import thread_of
from guardproxy.pipeline.turns import in_scope, recent_context, texts_after

__all__ = [
    "ErrorReview",
    "Exchange",
    "Exclusions",
    "GrowingReplies",
    "JudgedTurn",
    "Judging",
    "Pipeline",
    "RefusedBeforeStart",
    "ReplyReview",
    "RequestReview",
    "gathered",
    "in_scope",
    "moderated",
    "recent_context",
    "texts_after",
    "thread_of",
]
