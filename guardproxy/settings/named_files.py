"""Files that a configuration names as `file:NAME`."""

import stat
from pathlib import Path

from guardproxy.settings.yaml_tree import Node, Problem, SettingPath

_PREFIX = "file:"


def named_file(node: Node) -> str | None:
    """The name of the file that stands in the place of a value, None if it is no such name."""
    text = node.text()
    return text.removeprefix(_PREFIX).strip() if text and text.startswith(_PREFIX) else None


def content(file: Path, most: int) -> str:
    """The text of a file of at most `most` bytes. Raises ValueError with the reason why there is none."""
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a device or a pipe may never end
            raise ValueError(f"{file}: is no file; write file:NAME")
        if status.st_size > most:
            raise ValueError(f"{file}: has more than {most} bytes; is it the right file?")
        return file.read_bytes().decode()
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file}: not UTF-8; save the file in that encoding") from None


def reported(node: Node, path: SettingPath, message: str) -> Problem:
    """A mistake at a node, of which no later check reports another one."""
    node.reported = True
    return Problem(node.position, path, message)
