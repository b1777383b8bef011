"""`guardproxy audit` with exclusions and keys, on a real store."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from guardproxy.errors import ConfigError, GuardproxyError
from guardproxy.observe.masking import text_hash
from guardproxy.observe.records import masked_record
from guardproxy.sinks.database import AuditStore, StoreKeys, default_store_url
from tests.sinks.kit import record
from tests.test_cli_audit import call, printed, write

SONG = "sex bomb"
REASON = ("--reason", "a song", "--by", "ann")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data directory with a store: a text as it was judged, a masked one, a hash, and none."""
    write(
        tmp_path,
        [
            masked_record(record(1, text=SONG), "full"),
            masked_record(record(2, text="write to ann@example.com"), "redacted"),
            masked_record(record(3, text=SONG), "hash"),
            masked_record(record(4, text=SONG), "none"),
        ],
    )
    return tmp_path


def test_exclude_list_and_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An exclusion has the hash of the judged text; it is listed until it ends, and then with --ended."""
    place = ("--data-dir", folder)
    out = printed(capsys, "exclude", "1", "--category", "violence", *REASON, "--until", "30d", *place)
    number = out.split()[1]
    assert f"`audit unexclude {number}` ends it" in out
    (listed,) = map(json.loads, printed(capsys, "exclusions", "--json", *place).splitlines())
    assert (listed["id"], listed["text"], listed["record"]) == (number, text_hash(SONG), "record-1")
    assert abs(listed["until"] - time.time() - 30 * 86_400) < 60
    assert f"{number}  until 2" in printed(capsys, "exclusions", *place)
    assert printed(capsys, "unexclude", number, "--by", "bob", *place) == f"exclusion {number} has ended\n"
    assert "no exclusions in" in printed(capsys, "exclusions", *place)
    assert "by bob: a song" in printed(capsys, "exclusions", "--ended", *place)
    with pytest.raises(GuardproxyError, match=r"no exclusion .* is in force"):
        call("unexclude", number, "--by", "bob", *place)
    assert "6 rows, 0 of them erased: no row" in printed(capsys, "verify", *place)


def test_the_exact_text_is_needed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A hash will do; of a masked text, or none, the exact text must be given."""
    rest = ("--category", "*", *REASON, "--until", "2199-12-31", "--data-dir", folder)
    exact = tmp_path / "text"
    exact.write_text(SONG)
    call("exclude", "3", *rest)
    call("exclude", "4", *rest, "--text-file", exact)
    capsys.readouterr()
    listed = [json.loads(line) for line in printed(capsys, "exclusions", "--json", "--data-dir", folder).splitlines()]
    assert [one["text"] for one in listed] == [text_hash(SONG)] * 2
    with pytest.raises(
        GuardproxyError, match=r"record 2: its text is masked, .*: give the exact text with --text-file"
    ):
        call("exclude", "2", *rest)
    with pytest.raises(GuardproxyError, match="record 4: its text is not stored"):
        call("exclude", "4", *rest)
    with pytest.raises(GuardproxyError, match="cannot be read as UTF-8"):
        call("exclude", "4", *rest, "--text-file", tmp_path / "nowhere")
    with pytest.raises(
        GuardproxyError, match="record 1 has no category 'violense'; it has jailbreak, unsafe, violence,"
    ):
        call("exclude", "1", "--category", "violense", *REASON, "--until", "1d", "--data-dir", folder)
    call("delete", "--request-id", "request-1", "--yes", "--data-dir", folder)
    with pytest.raises(GuardproxyError, match="no record '1'"):
        call("exclude", "1", *rest)


@pytest.mark.parametrize("until", ["never", "yesterday", "2001-01-01", "0d"])
def test_an_exclusion_ends_in_the_future(folder: Path, until: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A time that is past, or none at all, is an error."""
    with pytest.raises(SystemExit):
        call("exclude", "1", "--category", "*", *REASON, "--until", until, "--data-dir", folder)
    assert "is in the past" in capsys.readouterr().err if until != "never" else True


def test_keys_from_the_environment_and_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without keys, the error says where to give them; both ways work, and `rekey` changes the key."""
    first, second, chain = Fernet.generate_key().decode(), Fernet.generate_key().decode(), "c" * 40
    place = ("--data-dir", tmp_path)

    async def run() -> None:
        store = AuditStore(default_store_url(str(tmp_path)), keys=StoreKeys(chain, (first,)))
        await store.write([replace(record(1), text=SONG)])
        await store.close()

    asyncio.run(run())
    with pytest.raises(ConfigError, match=r"is encrypted .*--config FILE or .* GUARDPROXY_AUDIT_KEY"):
        call("list", *place)
    with pytest.raises(ConfigError, match=r"has a key: .*--config FILE or .* GUARDPROXY_AUDIT_CHAIN_KEY"):
        call("verify", *place)
    monkeypatch.setenv("GUARDPROXY_AUDIT_KEY", f"{second},{first}")
    monkeypatch.setenv("GUARDPROXY_AUDIT_CHAIN_KEY", chain)
    assert SONG in printed(capsys, "list", *place)
    assert "2 rows, 0 of them erased: no row" in printed(capsys, "verify", *place)
    assert printed(capsys, "rekey", *place) == "the texts of 1 records are encrypted with the first key\n"
    monkeypatch.setenv("GUARDPROXY_AUDIT_KEY", first)
    with pytest.raises(ConfigError, match="is encrypted with another key"):
        call("show", "2", *place)
    config = tmp_path / "guardproxy.yaml"
    address = default_store_url(str(tmp_path))
    config.write_text(
        f"version: 1\naudit: {{store: '{address}', encrypt: '${{env:NEW}}', chain_key: '${{env:CHAIN}}'}}\n"
    )
    monkeypatch.setenv("NEW", second)
    monkeypatch.setenv("CHAIN", chain)
    assert SONG in printed(capsys, "export", "--config", config)
    assert "2 rows, 0 of them erased: no row" in printed(capsys, "verify", "--config", config)
