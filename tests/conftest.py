"""Before any test module imports torch: threads as the proxy has them."""

from guardproxy.engine.wait_policy import set_passive_wait_policy

set_passive_wait_policy()
