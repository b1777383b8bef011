"""Before any test module imports torch: threads as the proxy has them; and how hypothesis tries examples."""

from hypothesis import HealthCheck, settings

from guardproxy.engine.wait_policy import set_passive_wait_policy

set_passive_wait_policy()

# Times say nothing on a busy machine. With CI in the environment, hypothesis always tries the same examples.
settings.register_profile("suite", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
