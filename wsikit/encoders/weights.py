"""Where weights are on this disk, or how to get them, and their hashes. No torch, and no network unless asked."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from wsikit.errors import ModelError

SMALL_FILES = ("*.json", "*.txt", "*.model", "*.spm")
"""Configuration and tokenizer, which are fetched with the weights."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


def hub_cache() -> Path:
    """Folder in which the hub's own client keeps what it fetched."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.environ[name]).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def cached_folder(hub_id: str, revision: str | None = None) -> Path | None:
    """Folder of a hub id in the local cache; None if it is not there.

    Without a revision: that of `main`, or the only one.
    """
    place = hub_cache() / f"models--{hub_id.replace('/', '--')}"
    reference = place / "refs" / (revision or "main")
    if reference.is_file():
        revision = reference.read_text(encoding="utf-8").strip()
    if revision is None:
        found = [path for path in place.glob("snapshots/*") if path.is_dir()]
        return found[0] if len(found) == 1 else None
    folder = place / "snapshots" / revision
    return folder if folder.is_dir() else None


def weights_in(folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """The first of the files `names` that is in a folder, or its parts if it was divided; empty: none is there."""
    for name in names:
        if (folder / name).is_file():
            return (folder / name,)
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
                paths = tuple(folder / part for part in parts)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ModelError(f"{index}: damaged ({error}); copy it again from its source.") from error
            missing = [path.name for path in paths if not path.is_file() or path.parent != folder]
            if missing:
                raise ModelError(f"{folder}: {len(missing)} of {len(paths)} parts are missing, such as {missing[0]}.")
            return paths
    return ()


def fetch(hub_id: str, names: Sequence[str], *, gated: bool = False, revision: str | None = None) -> Path:
    """Fetch configuration, tokenizer and the first of the files `names` from the hub; the folder that holds them.

    Raises
    ------
    ModelError
        The hub does not answer, has no such model, or refuses access.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        there = HfApi().list_repo_files(hub_id, revision=revision)
        chosen = next((name for name in names if name in there), None)
        if chosen is None:
            patterns = [name for name in names if f"{name}.index.json" in there][:1]
            patterns = [part for name in patterns for part in (f"{Path(name).stem}-*{Path(name).suffix}",)]
        else:
            patterns = [chosen]
        if not patterns:
            raise ModelError(
                f"{page(hub_id)}: holds none of {', '.join(names)}; expected weights under one of these names."
            )
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=[*patterns, *SMALL_FILES]))
    except GatedRepoError as error:
        raise ModelError(how_to_get(hub_id, gated=True)) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        if gated:
            raise ModelError(how_to_get(hub_id, gated=True)) from error
        raise ModelError(f"{hub_id}: the hub has no such model, or it is private. Check the name.") from error
    except (HfHubHTTPError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{hub_id}: could not be fetched from the hub ({reason}). Try again, or copy the folder of the model here "
            "and give its path."
        ) from error


def page(hub_id: str) -> str:
    """Page of a model at the hub."""
    return f"https://huggingface.co/{hub_id}"


def how_to_get(hub_id: str, *, gated: bool | None) -> str:
    """What to type for weights that are not here, in one line. `gated`: None if it is not known."""
    login = f"accept its terms at {page(hub_id)}, log in once with `hf auth login`, then use --download"
    if gated:
        return f"weights of {hub_id} are not here, and it is gated: {login}; or give the folder that holds them."
    access = "" if gated is False else f" If it is gated: {login}."
    return (
        f"weights of {hub_id} are not here, and nothing is fetched unasked: use --download, or give the folder that "
        f"holds them.{access}"
    )


def digest_of(files: Sequence[Path]) -> str:
    """sha256 of one file, or over the sha256 of several in the order of their names.

    A file is read once per process. Large files in the hub's cache are named by their sha256 and not read at all.
    """
    each = [(path.name, _file_digest(path)) for path in sorted(files)]
    if len(each) == 1:
        return each[0][1]
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in each).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    real = path.resolve()
    if real.parent.name == "blobs" and _SHA256.fullmatch(real.name):
        return real.name
    status = real.stat()
    return _hashed(real, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _hashed(path: Path, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
