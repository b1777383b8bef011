"""The reviewer's page at /guardproxy/: reads the audit store's queries, writes labels, and never asks the proxy."""

from guardproxy.console.app import create_console
from guardproxy.console.parts import (
    ConsoleParts,
    PolicyEditor,
    ReadView,
    ThresholdChange,
    Trial,
    Tried,
    TriedPolicy,
    TryIt,
)
from guardproxy.console.people import People, Person

__all__ = [
    "ConsoleParts",
    "People",
    "Person",
    "PolicyEditor",
    "ReadView",
    "ThresholdChange",
    "Trial",
    "Tried",
    "TriedPolicy",
    "TryIt",
    "create_console",
]
