"""HTTP on both sides: the proxy's ASGI application, and the client of the upstream."""
