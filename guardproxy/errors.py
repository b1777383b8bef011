"""Few errors, named for what the caller can do; each carries the HTTP status that it becomes."""


class GuardproxyError(Exception):
    """The root of what guardproxy raises on purpose."""

    status = 500
    code = "internal_error"


class ConfigError(GuardproxyError):
    """The operator must mend the configuration; `problems` holds every mistake, one line each."""

    code = "configuration_error"

    def __init__(self, problems: list[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else problems
        super().__init__("\n".join(self.problems))


class Unreadable(GuardproxyError):
    """A body that its protocol does not allow. `path` is the place in it."""

    status = 400
    code = "invalid_request"

    def __init__(self, message: str, path: str = "") -> None:
        self.path = path
        super().__init__(f"{path}: {message}" if path else message)


class UpstreamUnreadable(Unreadable):
    """The upstream's answer cannot be read, so it cannot be judged and does not go on."""

    status = 502
    code = "upstream_unreadable"


class TooLarge(GuardproxyError):
    """The client must send less: a limit of `limits:` is exceeded."""

    status = 413
    code = "request_too_large"


class UpstreamUnavailable(GuardproxyError):
    """The upstream cannot be reached, or did not answer in time."""

    status = 502
    code = "upstream_unavailable"


class GuardUnavailable(GuardproxyError):
    """The guard failed, timed out or said something unreadable. Never to be taken for safe."""

    status = 503
    code = "guard_unavailable"


class Overloaded(GuardUnavailable):
    """The guard would take too long; the check was refused at the door."""

    code = "guard_overloaded"


class AuditUnavailable(GuardproxyError):
    """The record of an answer could not be stored and must be (`audit.required`), so the answer does not leave."""

    status = 503
    code = "audit_unavailable"
