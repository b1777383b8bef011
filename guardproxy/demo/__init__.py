"""The demo upstream: a small chat model behind an OpenAI-compatible server, in a process of its own."""
