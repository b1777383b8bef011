"""Frozen dataclasses with a quick constructor: they are what the standard library's are."""

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from inspect import signature
from typing import Any

import pytest

from guardproxy.frozen import frozen


@frozen
class Quick:
    """One field of each kind."""

    a: int
    b: str = "b"
    c: dict[str, int] = field(default_factory=dict)
    d: list[int] = field(default_factory=list, init=False, compare=False)


@dataclass(frozen=True, slots=True)
class Plain:
    """The same."""

    a: int
    b: str = "b"
    c: dict[str, int] = field(default_factory=dict)
    d: list[int] = field(default_factory=list, init=False, compare=False)


@pytest.mark.parametrize("make", [lambda kind: kind(1), lambda kind: kind(1, "x"), lambda kind: kind(c={}, a=2)])
def test_objects_are_alike(make: Any) -> None:
    """Values, equality, copies and the text are those of a frozen dataclass."""
    quick, plain = make(Quick), make(Plain)
    assert [getattr(quick, one.name) for one in fields(quick)] == [getattr(plain, one.name) for one in fields(plain)]
    assert repr(quick).replace("Quick", "Plain") == repr(plain)
    assert quick == make(Quick) != replace(quick, a=9)
    assert copy.deepcopy(quick) == quick == pickle.loads(pickle.dumps(quick))
    assert type(quick) is Quick


def test_objects_are_frozen() -> None:
    """No field can be set or removed, and no other name."""
    quick = Quick(1)
    for name in ("a", "d", "other"):
        with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
            setattr(quick, name, 2)
    with pytest.raises(FrozenInstanceError):
        del quick.a
    assert not hasattr(quick, "__dict__")


def test_wrong_arguments_are_refused() -> None:
    """Parameters are the fields, with their defaults."""
    assert list(signature(Quick).parameters) == ["a", "b", "c"]
    wrong: tuple[tuple[Any, ...], ...] = ((), (1, "b", {}, []))
    for arguments in wrong:
        with pytest.raises(TypeError):
            Quick(*arguments)


def test_a_class_whose_checks_would_be_left_out_is_refused() -> None:
    """The constructor calls no `__post_init__`, and knows nothing of a base class or of keyword-only fields."""

    class Checked:
        one: int

        def __post_init__(self) -> None:
            raise ValueError

    class Inherits(Checked):
        two: int

    class Keywords:
        one: int = field(kw_only=True)

    for refused in (Checked, Inherits, Keywords):
        with pytest.raises(TypeError, match="use dataclass"):
            frozen(refused)
