"""`guardproxy completion`: what bash completes with it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from guardproxy.cli import main

_ASK = """
source completion
COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_shtab_guardproxy guardproxy "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD - 1]}}" 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with the script for bash, a file and a folder."""
    assert main(["completion", "bash"]) == 0
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "conf.d").mkdir()
    return tmp_path


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("guardproxy ser", {"serve"}),
        ("guardproxy key n", {"new"}),
        ("guardproxy serve --pre", {"--preset"}),
        ("guardproxy serve --preset b", {"balanced"}),
        ("guardproxy moderate --as ''", {"user", "assistant"}),
        ("guardproxy serve --config con", {"config.yaml", "conf.d"}),
        ("guardproxy validate con", {"config.yaml", "conf.d"}),
        ("guardproxy serve --data-dir con", {"conf.d"}),
        ("guardproxy completion z", {"zsh"}),
    ],
)
def test_bash_completes(folder: Path, line: str, found: set[str]) -> None:
    """Commands, subcommands, options, their choices, files and folders."""
    script = _ASK.format(line=line)
    said = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    assert set(said.stdout.split()) == found


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Their scripts name the commands."""
    assert main(["completion", shell]) == 0
    assert "moderate" in capsys.readouterr().out
