"""The public face: every name in `wsikit.__all__` is documented and needs no inner import to be used."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import doctest
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import wsikit

NAMES = [name for name in wsikit.__all__ if name != "__version__"]
FUNCTIONS = [name for name in NAMES if inspect.isroutine(getattr(wsikit, name))]
CLASSES = [name for name in NAMES if inspect.isclass(getattr(wsikit, name))]


def types_in(annotation: Any) -> Iterator[type]:
    """The classes that an annotation names, however deep."""
    for inner in typing.get_args(annotation):
        yield from types_in(inner)
    if isinstance(annotation, list | tuple):
        for inner in annotation:
            yield from types_in(inner)
    origin = typing.get_origin(annotation) or annotation
    if inspect.isclass(origin):
        yield origin


def hints_of(owner: Callable[..., Any] | type) -> dict[str, Any]:
    """The annotations of a function, or of a class's fields, with what is imported for type checkers only."""
    module = importlib.import_module(owner.__module__)
    names = dict(vars(module))
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                with contextlib.suppress(ImportError, AttributeError):
                    names[alias.asname or alias.name] = getattr(importlib.import_module(node.module), alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    names[alias.asname] = importlib.import_module(alias.name)
    return typing.get_type_hints(owner, localns=names)


def test_the_names_are_sorted_and_can_be_fetched() -> None:
    assert list(wsikit.__all__) == sorted(wsikit.__all__, key=str.lower)
    for name in wsikit.__all__:
        assert getattr(wsikit, name) is not None
    assert set(wsikit.__all__) <= set(dir(wsikit))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_type_of_a_public_signature_is_public(name: str) -> None:
    exported = {getattr(wsikit, other) for other in CLASSES}
    for parameter, annotation in hints_of(getattr(wsikit, name)).items():
        for found in types_in(annotation):
            if found.__module__.split(".")[0] == "wsikit":
                assert found in exported, f"wsikit.{name}({parameter}) needs {found.__module__}.{found.__name__}"


# what a synthetic slide is made of is documented in wsikit.phantom, which users with slides never meet
DATACLASSES = [name for name in CLASSES if dataclasses.is_dataclass(getattr(wsikit, name)) and name != "PhantomTruth"]


@pytest.mark.parametrize("name", DATACLASSES)
def test_every_type_of_a_public_dataclass_is_public(name: str) -> None:
    exported = {getattr(wsikit, other) for other in CLASSES}
    for field, annotation in hints_of(getattr(wsikit, name)).items():
        for found in types_in(annotation):
            if found.__module__.split(".")[0] == "wsikit":
                assert found in exported, f"wsikit.{name}.{field} needs {found.__module__}.{found.__name__}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_has_an_example(name: str) -> None:
    """That it runs is tested by `pytest --doctest-modules`."""
    text = inspect.getdoc(getattr(wsikit, name))
    assert text
    assert doctest.DocTestParser().get_examples(text), f"wsikit.{name} has no example"
