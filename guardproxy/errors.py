"""All errors that guardproxy raises on purpose, named for what the caller can do, each with its HTTP status."""


class GuardproxyError(Exception):
    """The base of all errors that guardproxy raises on purpose. `code` is the machine-readable code in error bodies."""

    status = 500
    code = "internal_error"
    retry_s: float = 0.0
    """After how many seconds the same request may succeed; 0 if that is unknown, or if it will not."""


class ConfigError(GuardproxyError):
    """The operator must correct the configuration. `problems` holds every mistake, one line each."""

    code = "configuration_error"

    def __init__(self, problems: list[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else problems
        super().__init__("\n".join(self.problems))


class Unreadable(GuardproxyError):
    """A body that its protocol does not allow. `path` is the JSON path of the mistake."""

    status = 400
    code = "invalid_request"

    def __init__(self, message: str, path: str = "") -> None:
        self.path = path
        super().__init__(f"{path}: {message}" if path else message)


class UpstreamUnreadable(Unreadable):
    """The upstream's answer cannot be read, so it cannot be judged and is not sent to the client."""

    status = 502
    code = "upstream_unreadable"


class TooLarge(GuardproxyError):
    """The request exceeds one of the configured `limits`; the client must send less."""

    status = 413
    code = "request_too_large"


class UpstreamUnavailable(GuardproxyError):
    """The upstream cannot be reached, or did not answer in time.

    `repeated`: the proxy has already sent the request more than once, so the client should not repeat it.
    """

    status = 502
    code = "upstream_unavailable"
    repeated = False


class GuardUnavailable(GuardproxyError):
    """The guard failed, timed out or answered something unreadable. Never treat it as a verdict of "safe"."""

    status = 503
    code = "guard_unavailable"
    retry_s = 5.0


class Overloaded(GuardUnavailable):
    """The check was not queued because it would wait too long. `retry_s`: after how many seconds it may be accepted."""

    code = "overloaded"

    def __init__(self, message: str, retry_s: float = 1.0) -> None:
        self.retry_s = retry_s
        super().__init__(message)


class JudgingTooLong(GuardUnavailable):
    """The guard would need more than a check's timeout for the request, even if it had nothing else to do.

    Such a text is refused whatever `on_guard_error` says: otherwise a longer text would be a way past the guard.
    """

    status = 413
    code = "request_too_large"
    retry_s = 0.0


class Unintelligible(GuardUnavailable):
    """The guard's model has answered a text with something that is no verdict, or its server refuses the text.

    It would answer so again, and other texts well: it is not asked again, and stays in use.
    """

    code = "guard_unintelligible"
    retry_s = 0.0


class AuditUnavailable(GuardproxyError):
    """A record could not be stored although `audit.required` is set, so its answer is not sent to the client."""

    status = 503
    code = "audit_unavailable"


def error_codes(kind: type[GuardproxyError] = GuardproxyError) -> set[str]:
    """The codes of all errors of a kind that the loaded modules define."""
    return {kind.code}.union(*map(error_codes, kind.__subclasses__()))
