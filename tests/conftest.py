"""Before any test module imports torch: threads as the proxy has them."""

from guardproxy.engine.runner import share_cores

share_cores()
