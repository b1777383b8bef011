"""What `guardproxy serve` runs with where it is given no configuration, to be measured."""

import hashlib
import os
from dataclasses import replace
from importlib.resources import files

from guardproxy import app
from guardproxy.policy import Policy
from guardproxy.ports import Guard
from guardproxy.settings import load

# How long a check may take where only its verdict is measured: other programs may have the machine.
PATIENCE_S = 600.0


def shipped() -> tuple[Guard, Policy]:
    """The embedded guard, not started yet and with more time for a check, and the default policy."""
    settings = load(None, os.environ, app.catalogue())
    patient = replace(settings.guard, timeout_s=PATIENCE_S, max_wait_s=PATIENCE_S)
    return app.guard(replace(settings, guard=patient)), settings.policies.policies["default"]


def weights() -> str:
    """What tells the embedded guard's weights from others: the first 12 digits of their SHA-256."""
    data = (files("guardproxy") / "weights" / "embedded" / "model.safetensors").read_bytes()
    return hashlib.sha256(data).hexdigest()[:12]
