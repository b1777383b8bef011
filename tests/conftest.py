"""Before any test module imports torch: threads as the proxy has them, no hub; and how hypothesis tries examples."""

import os

from hypothesis import HealthCheck, settings

from guardproxy.engine.wait_policy import set_passive_wait_policy

set_passive_wait_policy()
# A model that is not on this machine is not looked for elsewhere: without a network that takes most of a minute.
os.environ["HF_HUB_OFFLINE"] = "1"

# Times say nothing on a busy machine. With CI in the environment, hypothesis always tries the same examples.
settings.register_profile("suite", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
