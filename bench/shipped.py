"""The guard and policy of `guardproxy serve` without a configuration, for measurements."""

import hashlib
import os
from importlib.resources import files

from guardproxy import app
from guardproxy.cli.evaluate import patient
from guardproxy.policy import Policy
from guardproxy.ports import Guard
from guardproxy.settings import load


def shipped() -> tuple[Guard, Policy]:
    """The embedded guard, not started and with a longer time limit, and the default policy."""
    settings = load(None, os.environ, app.catalogue())
    return app.guard(patient(settings)), settings.policies.policies["default"]


def weights() -> str:
    """The first 12 hexadecimal digits of the SHA-256 of both models of the embedded guard, the small one first."""
    folder = files("guardproxy") / "weights" / "embedded"
    data = b"".join((folder / name / "model.gguf").read_bytes() for name in ("small", "large"))
    return hashlib.sha256(data).hexdigest()[:12]
