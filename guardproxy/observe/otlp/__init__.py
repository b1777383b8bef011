"""OpenTelemetry: the names of spans and attributes, and what sends spans, metrics and logs over OTLP.

Only `app/telemetry.py` imports this package, and only if the configuration has a section `otel`: its modules need the
extra `otel`.
"""
