"""One file per kind of sink. Each offers `open_sink`, which takes an address (`kind://...`); the log takes options."""

REGISTRY: dict[str, str] = {
    "jsonl": "guardproxy.sinks.jsonl:open_sink",
    "log": "guardproxy.sinks.log:open_sink",
    "postgresql": "guardproxy.sinks.database:open_sink",
    "sqlite": "guardproxy.sinks.database:open_sink",
}
