"""What the audit store costs: rows written per second, and the time of each query on many records.

    python -m bench.audit [--rows 100000] [--postgres postgresql://user@host/db | --file audit.sqlite3] [--json]

Without `--postgres` the store is a SQLite file in a temporary folder, or the one that `--file` names. A database that
this command has filled is measured again. Times are of the store's own methods, as the reviewer's page (`console`) and
`guardproxy audit` call them, with reading the records' JSON. CPU time is that of this process, and of a PostgreSQL
server on this machine.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from sqlalchemy import text

from guardproxy.errors import ConfigError
from guardproxy.reviews import Label
from guardproxy.sinks.database import COUNT_BY, AuditStore, Filter, ReviewStore
from guardproxy.sinks.database.schema import open_engine, parse_address
from guardproxy.types import Coverage, Decision, Finding, Origin, Reason, Record, Usage, Verdict

_BATCH = 256  # as `Observers` writes
_CATEGORIES = tuple(f"category_{number:02}" for number in range(12))
_WORDS = tuple(f"word{number}" for number in range(30_000))
_START = 1_760_000_000.0


def made_text(number: int) -> str:
    """The text of a record. A few words are frequent and most are rare, as in a language."""
    chance = random.Random(number)
    return " ".join(_WORDS[min(int(chance.paretovariate(0.6)), len(_WORDS)) - 1] for _ in range(40))


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
    text = made_text(number)
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
        exact=True,
        latency_s=chance.random() / 50,
        error="no answer in 2 s" if chance.random() < 0.001 else "",
    )


def filters(rows: int) -> dict[str, Filter]:
    """Filters of every kind, by name."""
    middle, end = _START + rows / 2, _START + rows
    return {
        "none": Filter(),
        "since (last hour)": Filter(since=end - 3600),
        "since (last 7 days)": Filter(since=end - 7 * 86_400),
        "since, until (an hour in the middle)": Filter(since=middle, until=middle + 3600),
        "since, until (4 days in the middle)": Filter(since=middle - 2 * 86_400, until=middle + 2 * 86_400),
        "client": Filter(client=f"{1:016x}"),
        "client, since (last day)": Filter(client=f"{1:016x}", since=end - 86_400),
        "user (frequent)": Filter(user=f"{1:016x}"),
        "user (rare)": Filter(user=f"{4321:016x}"),
        "session": Filter(session=f"{rows // 40:016x}"),
        "side": Filter(side="user"),
        "action": Filter(action="block"),
        "action (none)": Filter(action="rewrite"),
        "action, since, until (an hour)": Filter(action="block", since=middle, until=middle + 3600),
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
        "text (frequent word), action": Filter(text=_WORDS[0], action="block"),
        "text (phrase)": Filter(text=f'"{_WORDS[0]} {_WORDS[9]}"'),
        "text (phrase of frequent words)": Filter(text=f'"{_WORDS[0]} {_WORDS[0]} {_WORDS[1]}"'),
        "text (prefix)": Filter(text=f"{_WORDS[1]}*"),
        "client, action": Filter(client=f"{1:016x}", action="block"),
        "model, route": Filter(model="model-3", route="rare"),
        "label": Filter(label="false_positive"),
        "label none, blocked": Filter(label="none", action="block"),
        "shadow only": Filter(shadow="only"),
        "shadow without": Filter(shadow="without"),
        "error": Filter(error=True),
        "request-id": Filter(request_id=f"{rows // 4:032x}"),
    }


_Query = Callable[[], Awaitable[object]]


def queries(store: ReviewStore, rows: int) -> dict[str, _Query]:
    """The queries by name. Each list is a page of 50, as in the feed and in `audit list`."""
    end = _START + rows
    named: dict[str, _Query] = {}
    for name, chosen in filters(rows).items():
        named[f"list: {name}"] = lambda chosen=chosen: store.page(chosen, limit=51)  # type: ignore[misc]
    for name, chosen in filters(rows).items():
        named[f"facets: {name}"] = lambda chosen=chosen: store.facets(chosen)  # type: ignore[misc]
    named["list: page in the middle"] = lambda: store.page(before=rows // 2, limit=51)
    named["list: page in the middle, forwards"] = lambda: store.page(after=rows // 2, limit=51)
    named["live: new records"] = lambda: store.page(after=rows, limit=50)
    named["queue: next"] = lambda: store.texts(Filter(shadow="without", label="none"), limit=25)
    named["queue: next, before the middle"] = lambda: store.texts(
        Filter(shadow="without", label="none"), before=rows // 2, limit=25
    )
    named["queue: claim"] = lambda: store.claim([f"{rows // 2:032x}"], "ann", 300)
    for name, (length, step) in {"hour": (3600, 120), "day": (86_400, 3600), "30 days": (30 * 86_400, 86_400)}.items():
        within = Filter(since=end - length, shadow="without")
        named[f"overview: totals, {name}"] = lambda within=within: store.totals(within)  # type: ignore[misc]
        named[f"overview: charts, {name}"] = lambda within=within, step=step: store.periods(within, step)  # type: ignore[misc]
        for by in ("category", "client"):
            named[f"overview: charts by {by}, {name}"] = lambda within=within, step=step, by=by: store.trends(  # type: ignore[misc]
                within, step, by
            )
    for name, chosen in {"client": Filter(client=f"{1:016x}"), "frequent word": Filter(text=_WORDS[0])}.items():
        within = replace(chosen, since=end - 86_400, shadow="without")
        named[f"overview: totals, {name}, day"] = lambda within=within: store.totals(within)  # type: ignore[misc]
    named["workbench: scores"] = lambda: store.recent(Filter(shadow="without"), 2000)
    for by in COUNT_BY:
        named[f"stats --by {by}"] = lambda by=by: store.counts(by)  # type: ignore[misc]
    named["stats --by category, last day"] = lambda: store.counts("category", Filter(since=end - 86_400))
    named["stats"] = store.stats
    named["stats, last day"] = lambda: store.stats(Filter(since=end - 86_400))
    named["export: 200 rows in the middle"] = lambda: store.tail(rows // 2)
    return {**named, **_of_a_record(store, rows)}


def _of_a_record(store: ReviewStore, rows: int) -> dict[str, _Query]:
    """What the page of a record asks: `console.record`."""
    number = rows // 2
    name = f"{number:032x}"
    return {
        "record: by number": lambda: store.get(str(number)),
        "record: by id": lambda: store.get(name),
        "record: labels": lambda: store.label_history([name]),
        "record: its request": lambda: store.query(
            Filter(request_id=f"{number // 2:032x}", shadow="without"), 60, newest_first=False
        ),
        "record: its session": lambda: store.page(
            Filter(session=f"{number // 10:016x}", shadow="without"), before=number, limit=60
        ),
        "record: its client": lambda: store.page(Filter(client=f"{1:016x}"), limit=9),
        "record: the same text": lambda: _same_text(store, number),
        "show --conversation": lambda: store.conversation(name),
    }


async def _same_text(store: ReviewStore, number: int) -> object:
    stored = (await store.get(str(number)))[0]
    return await store.same_text(stored), await store.of_same_text(stored, 8)


async def fill(store: ReviewStore, rows: int) -> dict[str, object]:
    """Fill the store with `rows` records, and time it."""
    chance = random.Random(1)
    writing = used = 0.0
    for first in range(0, rows, _BATCH):
        batch = [made(number, chance) for number in range(first, min(first + _BATCH, rows))]
        started, cpu = time.perf_counter(), time.process_time()
        await store.write(batch)
        writing += time.perf_counter() - started
        used += time.process_time() - cpu
    one = []
    for number in range(rows, rows + 50):
        record = replace(made(number, chance), id=f"{number:032x}")
        started = time.perf_counter()
        await store.write([record])
        one.append(time.perf_counter() - started)
    labelled = [Label(f"{number:032x}", "false_positive", "ann", _START) for number in range(0, rows, rows // 500 or 1)]
    await store.label(labelled)
    return {
        "rows": rows,
        "rows written per second": round(rows / writing),
        "rows written per second of CPU": round(rows / used),
        "one record alone, p50 ms": round(statistics.median(one) * 1000, 2),
    }


def _server_s(postmaster: int) -> float:
    """CPU seconds that a PostgreSQL server's processes have used, those that have ended to 10 ms."""
    used = 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            numbers = path.read_text().rpartition(")")[2].split()  # proc(5): the state, the parent, ...
            if int(numbers[1]) == postmaster:
                used += int(path.with_name("schedstat").read_text().split()[0]) / 1e9
    ended = Path(f"/proc/{postmaster}/stat").read_text().rpartition(")")[2].split()[13:15]
    return used + sum(map(int, ended)) / os.sysconf("SC_CLK_TCK")


def _parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


async def _postmaster(address: str) -> int | None:
    """The process id of the server at this address; None if it is on another machine."""
    engine = open_engine(parse_address(address))
    try:
        async with engine.connect() as connection:
            backend = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            return await asyncio.to_thread(_parent, backend)
    except FileNotFoundError:
        return None
    finally:
        await engine.dispose()


async def ask(store: ReviewStore, rows: int, repeats: int, pattern: str, server: int | None) -> dict[str, list[float]]:
    """Time every query whose name has `pattern`: p50 and p95 in ms, and the least CPU time in ms.

    `server` is the process whose children's CPU time counts as well.
    """

    def cpu_s() -> float:
        return time.process_time() + (_server_s(server) if server else 0.0)

    times: dict[str, list[float]] = {}
    for name, query in queries(store, rows).items():
        if pattern not in name:
            continue
        spent: list[float] = []
        used: list[float] = []
        for _ in range(repeats):
            cpu, started = cpu_s(), time.perf_counter()
            await query()
            spent.append((time.perf_counter() - started) * 1000)
            used.append((cpu_s() - cpu) * 1000)
            if sum(spent) > 20_000:
                break
        spent.sort()
        p50, p95 = spent[len(spent) // 2], spent[min(len(spent) * 95 // 100, len(spent) - 1)]
        times[name] = [round(p50, 1), round(p95, 1), round(min(used), 1)]
    return times


async def measure(address: str, args: argparse.Namespace, *, filled: bool = False) -> dict[str, object]:
    """Fill the store unless it is, and time every query."""
    store = ReviewStore(address)
    result = {} if filled else await fill(store, args.rows)
    server = await _postmaster(address) if args.postgres else None
    result["queries, p50, p95 and least CPU, ms"] = await ask(store, args.rows, args.repeats, args.only, server)
    if not filled:
        started = time.perf_counter()
        await store.erase(Filter(request_id=f"{args.rows // 3:032x}"))
        result["delete a request, s"] = round(time.perf_counter() - started, 2)
    await store.close()
    return result


async def run(args: argparse.Namespace) -> dict[str, object]:
    """Measure in the given database, or in a SQLite file."""
    if args.postgres:
        probe = AuditStore(args.postgres, create=False)
        try:
            held = (await probe.head()).seq
        except ConfigError:
            held = 0
        finally:
            await probe.close()
        if 0 < held < args.rows:
            sys.exit(f"bench.audit: {probe.place} has an audit store with {held} rows: name an empty database")
        return await measure(args.postgres, args, filled=held > 0)
    with tempfile.TemporaryDirectory(prefix="guardproxy-audit-") as folder:
        path: Path = args.file or Path(folder) / "audit.sqlite3"
        result = await measure(f"sqlite:///{path}", args, filled=await asyncio.to_thread(path.is_file))
        size = await asyncio.to_thread(lambda: path.stat().st_size)
        return {**result, "bytes per record": size // args.rows}


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description="What the audit store costs.")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=20)
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--postgres", metavar="URL", help="a database: filled if empty, else only queried")
    place.add_argument("--file", metavar="PATH", help="a SQLite file: filled and kept if missing, else only queried")
    parser.add_argument("--only", default="", metavar="NAME", help="only the queries whose name contains this")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    args.file = args.file and Path(args.file).absolute()
    result = asyncio.run(run(args))
    if args.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        if isinstance(value, dict):
            print(f"\n{name}")
            for query, times in value.items():
                print(f"  {query:<52}", *(f"{number:>9}" for number in times))
            print()
        else:
            print(f"{name:<32} {value}")


if __name__ == "__main__":
    main()
