"""What the audit store costs: rows written per second, and the time of each query on many records.

    python -m bench.audit [--rows 100000] [--postgres postgresql://user@host/db] [--json]

Without `--postgres` the store is a SQLite file in a temporary folder. The database must not have a store yet. Times are
of `AuditStore`'s own methods, with reading the records' JSON.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from guardproxy.errors import ConfigError
from guardproxy.reviews import Label
from guardproxy.sinks.database import AuditStore, Filter
from guardproxy.types import Coverage, Decision, Finding, Origin, Reason, Record, Usage, Verdict

_BATCH = 256  # as `Observers` writes
_CATEGORIES = tuple(f"category_{number:02}" for number in range(12))
_WORDS = tuple(f"word{number}" for number in range(30_000))
_START = 1_760_000_000.0


def made(number: int, chance: random.Random) -> Record:
    """Record `number` of a proxy with a request per second: 2 % are blocked, 0.1 % have an error."""
    blocked = chance.random() < 0.02
    scores = {name: chance.random() ** 8 * 0.3 for name in _CATEGORIES}
    if blocked:
        scores[chance.choice(_CATEGORIES)] = 0.5 + chance.random() / 2
    worst = max(scores, key=scores.__getitem__)
    decision = Decision("pass", "", ())
    if blocked:
        decision = Decision("block", "", (Reason(worst, scores[worst], 0.5, "block"),))
    # A few words are frequent and most are rare, as in a language.
    text = " ".join(_WORDS[min(int(chance.paretovariate(0.6)), len(_WORDS)) - 1] for _ in range(40))
    user = int(chance.paretovariate(0.8)) % 5000
    return Record(
        id=f"{number:032x}",
        time=_START + number,
        origin=Origin(
            request_id=f"{number // 2:032x}",
            route="default" if number % 50 else "rare",
            wire="openai_completions",
            upstream="http://upstream.test",
            model=f"model-{number % 5}",
            client=f"{user % 40:016x}",
            user=f"{user:016x}",
            session=f"{number // 10:016x}",
        ),
        side="user" if number % 2 == 0 else "assistant",
        turn=0,
        choice=0,
        policy="default",
        policy_version="0a1b2c",
        verdict=Verdict(
            scores[worst], tuple(Finding(name, score) for name, score in scores.items()), "embedded", "t", Usage()
        ),
        decision=decision,
        outcome="refuse" if blocked else "pass",
        text=text,
        coverage=(Coverage("messages[0].content", "user", "text", len(text), judged=True),),
        latency_s=chance.random() / 50,
        error="no answer in 2 s" if chance.random() < 0.001 else "",
    )


def queries(store: AuditStore, rows: int) -> dict[str, Callable[[], Awaitable[object]]]:
    """The queries by name. Each list is a page of 50."""
    middle = _START + rows / 2
    filters = {
        "newest": Filter(),
        "since (last hour)": Filter(since=_START + rows - 3600),
        "since, until (an hour in the middle)": Filter(since=middle, until=middle + 3600),
        "client": Filter(client=f"{1:016x}"),
        "user (frequent)": Filter(user=f"{1:016x}"),
        "user (rare)": Filter(user=f"{4321:016x}"),
        "session": Filter(session=f"{rows // 40:016x}"),
        "side": Filter(side="user"),
        "action": Filter(action="block"),
        "action (none)": Filter(action="rewrite"),
        "category": Filter(category=_CATEGORIES[3]),
        "min-score 0.7": Filter(min_score=((_CATEGORIES[3], 0.7),)),
        "min-score 0.01": Filter(min_score=((_CATEGORIES[3], 0.01),)),
        "max-score unsafe 0.001": Filter(max_score=(("unsafe", 0.001),)),
        "min-score unsafe 0.45, max-score unsafe 0.55": Filter(
            min_score=(("unsafe", 0.45),), max_score=(("unsafe", 0.55),)
        ),
        "policy, route": Filter(policy="default", route="rare"),
        "model": Filter(model="model-3"),
        "text (rare word)": Filter(text=_WORDS[20_000]),
        "text (frequent word)": Filter(text=_WORDS[0]),
        "text (phrase)": Filter(text=f'"{_WORDS[0]} {_WORDS[9]}"'),
        "label": Filter(label="false_positive"),
        "label none, blocked": Filter(label="none", action="block"),
        "shadow only": Filter(shadow="only"),
        "error": Filter(error=True),
        "request-id": Filter(request_id=f"{rows // 4:032x}"),
    }
    named: dict[str, Callable[[], Awaitable[object]]] = {
        f"list: {name}": lambda chosen=chosen: store.page(chosen, limit=50)  # type: ignore[misc]
        for name, chosen in filters.items()
    }
    for by in ("category", "action", "user", "day", "label"):
        named[f"counts by {by}"] = lambda by=by: store.counts(by)  # type: ignore[misc]
    named["counts by category, last day"] = lambda: store.counts("category", Filter(since=_START + rows - 86_400))
    named["stats"] = store.stats
    named["page in the middle"] = lambda: store.page(before=rows // 2)
    return named


async def measure(address: str, rows: int, repeats: int) -> dict[str, object]:
    """Fill the store with `rows` records and time every query."""
    store = AuditStore(address)
    chance = random.Random(1)
    writing = 0.0
    for first in range(0, rows, _BATCH):
        batch = [made(number, chance) for number in range(first, min(first + _BATCH, rows))]
        started = time.perf_counter()
        await store.write(batch)
        writing += time.perf_counter() - started
    one = []
    for number in range(rows, rows + 50):
        record = replace(made(number, chance), id=f"{number:032x}")
        started = time.perf_counter()
        await store.write([record])
        one.append(time.perf_counter() - started)
    labelled = [Label(f"{number:032x}", "false_positive", "ann", _START) for number in range(0, rows, rows // 500 or 1)]
    await store.label(labelled)
    result: dict[str, object] = {
        "rows": rows,
        "rows written per second": round(rows / writing),
        "one record alone, p50 ms": round(statistics.median(one) * 1000, 2),
    }
    times: dict[str, list[float]] = {}
    for name, query in queries(store, rows).items():
        spent = []
        for _ in range(repeats):
            started = time.perf_counter()
            await query()
            spent.append((time.perf_counter() - started) * 1000)
            if sum(spent) > 20_000:
                break
        spent.sort()
        times[name] = [round(spent[len(spent) // 2], 1), round(spent[len(spent) * 95 // 100], 1)]
    result["queries, p50 and p95 ms"] = times
    started = time.perf_counter()
    await store.erase(Filter(request_id=f"{rows // 3:032x}"))
    result["delete a request, s"] = round(time.perf_counter() - started, 2)
    await store.close()
    return result


async def run(args: argparse.Namespace) -> dict[str, object]:
    """Measure in the given database, or in a SQLite file."""
    if args.postgres:
        probe = AuditStore(args.postgres, create=False)
        try:
            await probe.version()
        except ConfigError:
            return await measure(args.postgres, args.rows, args.repeats)
        finally:
            await probe.close()
        sys.exit(f"bench.audit: {probe.place} has an audit store already: name an empty database")
    with tempfile.TemporaryDirectory(prefix="guardproxy-audit-") as folder:
        result = await measure(f"sqlite:///{folder}/audit.sqlite3", args.rows, args.repeats)
        size = await asyncio.to_thread(lambda: (Path(folder) / "audit.sqlite3").stat().st_size)
        return {**result, "bytes per record": size // args.rows}


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description="What the audit store costs.")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--postgres", metavar="URL", help="an empty database")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = asyncio.run(run(args))
    if args.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        if isinstance(value, dict):
            print(f"\n{name}")
            for query, (p50, p95) in value.items():
                print(f"  {query:<48} {p50:>9} {p95:>9}")
            print()
        else:
            print(f"{name:<32} {value}")


if __name__ == "__main__":
    main()
