"""`guardproxy serve` as the image runs it: a numeric user without capabilities, and a read-only root file system."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.guarded import BAD, CONFIG, answers, judging
from tests.kit import free_port, until

# In a namespace of its own: the folders of the code, of its environment and of the interpreter are made readable,
# wherever they are; the data directory and /tmp stay writable, everything else is read-only. Then the process gives up
# root for good.
SCRIPT = """
set -eu
mount -t tmpfs -o mode=755 none /mnt
mkdir /mnt/data /mnt/home /mnt/code /mnt/environment
mount --bind "$DATA" /mnt/data
mount --rbind "$CODE" /mnt/code
mount --rbind "$ENVIRONMENT" /mnt/environment
mount --bind "$HOME" /mnt/home
mount -t tmpfs -o mode=755 none "$HOME"
for part in $(ls -A /mnt/home); do
    case "$PYTHON" in "$HOME/$part"/*) mkdir "$HOME/$part"; mount --bind "/mnt/home/$part" "$HOME/$part" ;; esac
done
umount /mnt/home
mount -t tmpfs -o mode=1777 none /tmp
mount -o remount,ro /mnt
mount -o remount,bind,ro /mnt/code
mount -o remount,bind,ro /mnt/environment
mount -o remount,ro "$HOME"
mount -o remount,bind,ro /
cd /mnt/code
exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \\
    env HOME=/mnt/data PYTHONDONTWRITEBYTECODE=1 /mnt/environment/bin/python -m guardproxy serve \\
    --config /mnt/data/guardproxy.yaml --data-dir /mnt/data/store
"""


@pytest.fixture
def namespace() -> None:
    """Skip where no namespace can be made."""
    tools = all(shutil.which(tool) for tool in ("unshare", "setpriv", "mount"))
    if os.getuid() or not tools or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs root, and namespaces of mounts")


def test_nothing_else_is_written(namespace: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers and the reviewer's page run as user 10001, who may write to the data directory and /tmp alone."""
    monkeypatch.setenv("GUARD_KEY", "a-key")
    (tmp_path / "store").mkdir()
    port, admin_port = free_port(), free_port()
    with judging() as judge:
        more = f"server: {{port: {port}, workers: 2}}\nadmin: {{port: {admin_port}}}\n"
        (tmp_path / "guardproxy.yaml").write_text(CONFIG % ('upstream: {url: "http://127.0.0.1:9"}', judge) + more)
        for path in (tmp_path, *tmp_path.iterdir()):
            os.chown(path, 10001, 10001)
        env = {
            **os.environ,
            "DATA": str(tmp_path),
            "CODE": str(Path.cwd()),
            "HOME": str(Path.home()),
            "PYTHON": str(Path(sys.base_prefix) / "bin"),
            "ENVIRONMENT": sys.prefix,
        }
        command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", SCRIPT]
        with (tmp_path / "log").open("wb") as output:
            process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
        try:
            with httpx.Client(trust_env=False) as http:

                def is_ready() -> bool:
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    return answers(http, f"http://127.0.0.1:{admin_port}/readyz")

                until(is_ready, f"not ready: {tmp_path / 'log'}", 200)
            status = dict(
                line.split(":", 1)
                for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
                if ":" in line
            )
            assert status["Uid"].split() == ["10001"] * 4
            assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")} == {0}
            body = {"model": "m", "messages": [{"role": "user", "content": BAD}]}
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, trust_env=False, timeout=60)
            assert answer.headers["x-guardproxy-action"] == "block"
            page = f"http://127.0.0.1:{admin_port}/guardproxy/feed"
            until(lambda: "block" in httpx.get(f"{page}.json", trust_env=False).text, "the page has no record")
        finally:
            process.terminate()
            process.wait(60)
    log = (tmp_path / "log").read_text()
    assert "Read-only" not in log, log
    assert "Permission denied" not in log, log
    assert {path.name for path in tmp_path.iterdir()} == {"guardproxy.yaml", "log", "store"}
    written = {path.name for path in (tmp_path / "store").iterdir()}
    assert written <= {"audit.sqlite3", "audit.sqlite3-wal", "audit.sqlite3-shm", "console.secret"}
