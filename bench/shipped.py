"""The guard and policy of `guardproxy serve` without a configuration, for measurements."""

import hashlib
import os
from dataclasses import replace
from importlib.resources import files

from guardproxy import app
from guardproxy.policy import Policy
from guardproxy.ports import Guard
from guardproxy.settings import load

# The time limit of a check whose verdict, not speed, is measured: other programs may slow the machine down.
PATIENCE_S = 600.0


def shipped() -> tuple[Guard, Policy]:
    """The embedded guard, not started and with a longer time limit, and the default policy."""
    settings = load(None, os.environ, app.catalogue())
    patient = replace(settings.guard, timeout_s=PATIENCE_S, max_wait_s=PATIENCE_S)
    return app.guard(replace(settings, guard=patient)), settings.policies.policies["default"]


def weights() -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the embedded guard's weights."""
    data = (files("guardproxy") / "weights" / "embedded" / "model.safetensors").read_bytes()
    return hashlib.sha256(data).hexdigest()[:12]
