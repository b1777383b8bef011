"""The format in which a guard in another process is asked: checks, verdicts and failures as JSON, both ways. Pure.

`docs/check-api.md` describes it for callers. A verdict that has been written and read again equals the first one, bit
by bit: JSON holds the shortest decimal that reads as the same float.
"""

from guardproxy.checkapi.accounts import Account, account_of, read_account
from guardproxy.checkapi.calls import Caller, CheckCall, call_fields, call_of, write_call
from guardproxy.checkapi.failures import code_of, failure_of, write_failure
from guardproxy.checkapi.verdicts import decision_fields, outcome_fields, read_verdict, verdict_fields, verdict_of

__all__ = [
    "Account",
    "Caller",
    "CheckCall",
    "account_of",
    "call_fields",
    "call_of",
    "code_of",
    "decision_fields",
    "failure_of",
    "outcome_fields",
    "read_account",
    "read_verdict",
    "verdict_fields",
    "verdict_of",
    "write_call",
    "write_failure",
]

CHECK = "/v1/check"
"""POST a check; DELETE with `?stream=ID` frees what is kept for a streamed reply; GET answers the guard's account."""
