"""Conformance checks for parts that other packages add: the checks that wsikit's own parts pass.

Call them in the tests of a plug-in; each raises `AssertionError` with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikit._lazy import lazy_names

_HOME = {
    "check_captioner": "wsikit.testing.captioners",
    "check_exporter": "wsikit.testing.exporters",
    "check_model": "wsikit.testing.models",
    "check_reader": "wsikit.testing.readers",
}

__all__ = ["check_captioner", "check_exporter", "check_model", "check_reader"]

if TYPE_CHECKING:
    from wsikit.testing.captioners import check_captioner
    from wsikit.testing.exporters import check_exporter
    from wsikit.testing.models import check_model
    from wsikit.testing.readers import check_reader

__getattr__ = lazy_names(__name__, _HOME)
