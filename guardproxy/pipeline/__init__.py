"""The story of an exchange: judge, decide, act, record, on both sides and on streams.

The fail direction stands in one place, `judging.Judging.judge`: a guard that fails or is overloaded is *unavailable*,
never *safe*, and the policy says what follows.
"""

from guardproxy.pipeline.judging import Exchange
from guardproxy.pipeline.pipeline import ErrorReview, Pipeline, ReplyReview, RequestReview
from guardproxy.pipeline.stream import Refused

__all__ = ["ErrorReview", "Exchange", "Pipeline", "Refused", "ReplyReview", "RequestReview"]
