"""Frozen dataclasses whose objects are made quickly: a request makes some fifty of them.

The constructor of a frozen dataclass calls `object.__setattr__` for each field, which takes as long as a small function
does. Here it fills an object of a twin class, which has the same slots and no `__setattr__`, and then makes it one of
the frozen class. An object is frozen when its constructor returns.
"""

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Make a class what `dataclass(frozen=True, slots=True)` makes of it, with a quicker constructor.

    It has no `__post_init__`, no keyword-only fields, and no base class but `object`, and nobody inherits from it.
    Raises TypeError for a class with one of the first three: its checks and defaults would be left out.
    """
    if cls.__bases__ != (object,) or hasattr(cls, "__post_init__"):
        raise TypeError(f"{cls.__name__} has a base class or __post_init__; use dataclass(frozen=True, slots=True)")
    made = dataclass(frozen=True, slots=True, init=False)(cls)
    own = fields(made)  # type: ignore[arg-type]
    if any(one.kw_only for one in own):
        raise TypeError(f"{cls.__name__} has keyword-only fields; use dataclass(frozen=True, slots=True)")
    twin = type(cls.__name__, (), {"__slots__": tuple(one.name for one in own)})
    made.__new__ = _constructor(own, twin)  # type: ignore[method-assign]
    made.__reduce__ = _reduced  # type: ignore[method-assign]
    return made


def _constructor(own: tuple[Field[Any], ...], twin: type) -> Callable[..., Any]:
    """The function `__new__` of a class with these fields, each a parameter."""
    known: dict[str, Any] = {"_new": object.__new__, "_twin": twin, "_made": MISSING}
    parameters, lines = ["_cls"], ["_self = _new(_twin)"]
    for one in own:
        value = one.name
        if one.default_factory is not MISSING:
            known[f"_make_{one.name}"] = one.default_factory
            value = f"_make_{one.name}()"
            if one.init:
                parameters.append(f"{one.name}=_made")
                value = f"{value} if {one.name} is _made else {one.name}"
        elif one.default is not MISSING:
            known[f"_default_{one.name}"] = one.default
            parameters.append(f"{one.name}=_default_{one.name}")
        else:
            parameters.append(one.name)
        lines.append(f"_self.{one.name} = {value}")
    source = "\n    ".join([f"def __new__({', '.join(parameters)}):", *lines, "_self.__class__ = _cls", "return _self"])
    exec(source, known)  # noqa: S102 - the standard library makes the functions of dataclasses in this way, too
    function: Callable[..., Any] = known["__new__"]
    return function


def _reduced(self: Any) -> tuple[type, tuple[Any, ...]]:
    """How copies and pickles are made: by the constructor."""
    return type(self), tuple(getattr(self, one.name) for one in fields(self) if one.init)
