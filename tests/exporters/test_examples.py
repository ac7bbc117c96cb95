"""The examples in the docstrings hold."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = ("export.page", "export.palette", "export.report_parts", "export.units", "voting.vote")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings_hold(name):
    results = doctest.testmod(importlib.import_module(f"wsikit.{name}"))
    assert results.attempted > 0
    assert results.failed == 0
