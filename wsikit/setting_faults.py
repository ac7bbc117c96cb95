"""All problems of a settings file in one line: where each is, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

MOST_SHOWN = 8


def faults_in_words(error: ValidationError, kind: type[BaseModel]) -> str:
    """The problems that pydantic found in settings of the class `kind`, without a full stop at the end.

    An unknown setting is listed with the one that is spelt alike, or the section that has it, or all that its own
    section has; a missing one by its name. More than `MOST_SHOWN` problems are counted.

    >>> from pydantic import BaseModel, ConfigDict, ValidationError
    >>> class Place(BaseModel):
    ...     model_config = ConfigDict(extra="forbid")
    ...     folder: str
    ...     mpp: float
    >>> try:
    ...     Place.model_validate({"foldr": "a", "mpp": "half"})
    ... except ValidationError as error:
    ...     print(faults_in_words(error, Place).replace("; ", ";\\n"))
    folder: missing, it has no default;
    mpp: Input should be a valid number, unable to parse string as a number;
    foldr: no such setting, did you mean folder?
    """
    found = [
        f"{'.'.join(map(str, one['loc'])) or 'the file'}: {_fault(one, kind)}"
        for one in error.errors(include_url=False)
    ]
    more = len(found) - MOST_SHOWN
    return "; ".join(found[:MOST_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _fault(one: Any, kind: type[BaseModel]) -> str:
    if one["type"] == "missing":
        return "missing, it has no default"
    if one["type"] == "extra_forbidden":
        known = sorted({name for model in _sections(kind, one["loc"][:-1]) for name in model.model_fields})
        close = difflib.get_close_matches(str(one["loc"][-1]), known, 1, 0.6)
        if close:
            return f"no such setting, did you mean {close[0]}?"
        here = ".".join(map(str, one["loc"][:-1]))
        # another kind of the same section, such as a head of another kind, is no other place
        if elsewhere := [s for s in _sections_with(kind, str(one["loc"][-1])) if not f"{here}.".startswith(f"{s}.")]:
            return f"no such setting here; it belongs under {' or '.join(elsewhere)}"
        return f"no such setting; there are {', '.join(known)}" if known else "no such setting"
    if one["type"] == "model_type":
        return "expected settings with their names"
    return str(one["msg"]).removeprefix("Value error, ").rstrip(".")


def _sections(kind: type[BaseModel], place: Sequence[int | str]) -> list[type[BaseModel]]:
    """The classes of settings that may stand at this place of a file."""
    found = [kind]
    for part in place:
        inner = [model for one in found if part in one.model_fields for model in _models(one.model_fields[str(part)])]
        # not a field: an entry of a list or mapping, or the tag that says which class of a union it is
        tagged = [one for one in found if any(field.default == part for field in one.model_fields.values())]
        found = inner or tagged or found
    return found


def _sections_with(kind: type[BaseModel], name: str) -> list[str]:
    """Places in the file, such as `data`, whose sections have a setting of this name; the file itself is left out."""
    found = []
    waiting: list[tuple[str, type[BaseModel]]] = [("", kind)]
    seen = set()
    while waiting:
        place, model = waiting.pop(0)
        if model in seen:
            continue
        seen.add(model)
        if place and name in model.model_fields and place not in found:
            found.append(place)
        for inner, field in model.model_fields.items():
            waiting.extend((f"{place}.{inner}".lstrip("."), one) for one in _models(field))
    return found


def _models(field: Any) -> Iterator[type[BaseModel]]:
    """The classes of settings in the type of a field, such as those of a union, a list or a mapping."""
    from pydantic import BaseModel

    annotation = getattr(field, "annotation", field)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
