"""HTTP on both sides: the proxy's ASGI application, and the HTTP client for the upstream."""
