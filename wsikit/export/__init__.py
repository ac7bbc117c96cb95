"""What a pathologist and a pipeline take away: maps, outlines, reports, tables, files of other tools.

`wsikit.export` is a public function too (`wsikit.batch.export.export`); the package itself can be called as it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """Importing a module of this package makes `wsikit.export` name the package: a call must work all the same."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from wsikit.batch.export import export

        return export(*arguments, **options)


sys.modules[__name__].__class__ = _CallablePackage
