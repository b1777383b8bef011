"""guardproxy: a reverse proxy that judges what goes into a chat LLM and what comes out of it."""

__version__ = "0.1.0"
