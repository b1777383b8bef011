"""The modules whose tests are measured, and the tests of each: those that mirror the module first, for `-x`."""

from pathlib import Path

PACKAGE = "guardproxy"
_WIRES = tuple(
    f"tests/wires/test_{name}.py" for name in ("requests", "replies", "unknown_fields", "streams", "stream_ends")
)

# A module or a folder of modules, below the package, and the tests that are run for its mutants. A folder's own line
# holds for its modules without one.
TESTS: dict[str, tuple[str, ...]] = {
    "policy.py": ("tests/test_policy.py",),
    "holdback.py": ("tests/test_holdback.py",),
    "sse.py": ("tests/test_sse_frames.py", "tests/test_sse.py"),
    "languages": ("tests/languages",),
    "views": ("tests/test_views.py", "tests/test_encodings.py"),
    "views/alphabets.py": ("tests/views/test_alphabets.py", "tests/test_encodings.py"),
    "views/ciphers.py": ("tests/views/test_ciphers.py", "tests/test_encodings.py"),
    "views/cleaning.py": ("tests/views/test_cleaning.py",),
    "views/damaged.py": ("tests/views/test_damaged.py",),
    "views/decoding.py": ("tests/views/test_decoding.py", "tests/test_encodings.py"),
    "views/hexadecimal.py": ("tests/views/test_hexadecimal.py", "tests/test_encodings.py"),
    "views/joining.py": ("tests/views/test_joining.py",),
    "views/numbers.py": ("tests/views/test_numbers.py", "tests/test_encodings.py"),
    "views/order.py": ("tests/views/test_order.py",),
    "views/plausible.py": ("tests/views/test_plausible.py",),
    "views/seals.py": ("tests/views/test_seals.py",),
    "views/search.py": ("tests/views/test_search.py", "tests/views/test_damaged.py"),
    "views/spacing.py": ("tests/views/test_spacing.py",),
    "engine/fair_queue.py": ("tests/engine/test_fair_queue.py",),
    "engine/cost.py": ("tests/engine/test_cost.py",),
    "engine/decoder/grammar.py": ("tests/engine/test_grammar.py",),
    "sinks/database/chain.py": ("tests/sinks/test_chain.py",),
    "pipeline": ("tests/pipeline",),
    "pipeline/canary.py": ("tests/pipeline/test_errors.py",),
    "pipeline/error_text.py": ("tests/pipeline/test_error_text.py", "tests/pipeline/test_errors.py"),
    "pipeline/pipeline.py": ("tests/pipeline/test_pipeline.py", "tests/pipeline/test_errors.py", "tests/pipeline"),
    "pipeline/turns.py": ("tests/pipeline/test_turns.py", "tests/pipeline"),
    "pipeline/stream.py": tuple(
        f"tests/pipeline/test_{name}.py" for name in ("stream", "stream_choices", "pipeline", "errors", "resumed")
    ),
    "pipeline/together.py": ("tests/pipeline/test_together.py",),
    "wires/shared": _WIRES,
    "wires/shared/arrival.py": ("tests/wires/test_arrival.py",),
    "wires/shared/base.py": ("tests/wires/test_base.py", *_WIRES),
    "wires/shared/body.py": ("tests/wires/test_body.py",),
    "wires/shared/edits.py": ("tests/wires/test_edits.py", *_WIRES),
    "wires/shared/identifiers.py": ("tests/wires/test_identifiers.py",),
    "wires/shared/known.py": ("tests/wires/test_known.py",),
    "wires/shared/logprob_echo.py": ("tests/wires/test_logprob_echo.py",),
    "wires/shared/message_builder.py": ("tests/wires/test_message_builder.py",),
    "wires/shared/openai.py": ("tests/wires/test_openai_base.py", "tests/wires/test_openai_choices.py"),
    "wires/shared/parts.py": ("tests/wires/test_parts.py",),
    "wires/shared/unmapped.py": ("tests/wires/test_unmapped.py", "tests/wires/test_unknown_fields.py"),
    "wires/shared/streams.py": ("tests/wires/test_stream_base.py", "tests/wires/test_stream_ends.py"),
    "wires/shared/models.py": ("tests/wires/test_models.py",),
    "wires/shared/vocabulary.py": ("tests/wires/test_identifiers.py",),
    "web/answers.py": ("tests/web/test_answers.py",),
    "web/client.py": ("tests/web/test_client.py",),
    "web/headers.py": ("tests/web/test_client.py", "tests/web/test_upstream.py"),
    "web/paths.py": ("tests/web/test_paths.py",),
    "web/proxy.py": ("tests/web/test_proxy_alone.py",),
    "web/visitors.py": ("tests/web/test_visitors.py",),
}


def expand(root: Path, names: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the modules that the names choose, with their tests; all for no name. Raises LookupError.

    A name is a module or a folder, with or without the package's name before it.
    """
    modules: dict[str, tuple[str, ...]] = {}
    for place, tests in TESTS.items():
        path = root / PACKAGE / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            modules[file.relative_to(root / PACKAGE).as_posix()] = tests
    wanted = [name.removeprefix(f"{PACKAGE}/").rstrip("/") for name in names]
    unknown = [name for name in wanted if not any(_within(module, name) for module in modules)]
    if unknown:
        raise LookupError(f"no tests are known for {', '.join(unknown)}: add a line to mutation/modules.py")
    return [
        (module, tests)
        for module, tests in modules.items()
        if not wanted or any(_within(module, name) for name in wanted)
    ]


def _within(module: str, name: str) -> bool:
    return module == name or module.startswith(f"{name}/")
