"""The encoders that have a name, with what decides whether one can be used here. No torch, nothing is read in full."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsikit.encoders import names, packaged, weights
from wsikit.encoders.names import preset_folder
from wsikit.encoders.presets import Preset, close_names, presets, sources
from wsikit.encoders.protocol import EncoderInfo
from wsikit.encoders.recipe import towers
from wsikit.encoders.registry import describe_encoder
from wsikit.errors import ModelError
from wsikit.plugins import plugin_names, plugin_package


@dataclass(frozen=True)
class EncoderEntry:
    """One line of the list of encoders."""

    name: str
    width: int | None
    """Numbers per patch; None: a plug-in, which is not imported for a list."""
    patch_px: int | None
    mpp: float | None
    """µm/px; None: any, or a plug-in."""
    licence: str
    gated: bool
    """Whether its weights are given only to accounts that have accepted its terms."""
    texts: bool
    """Whether texts can be encoded too."""
    here: bool
    """Whether its weights are on this computer."""
    supported: bool
    """Whether this version has a loader for it."""
    source: str
    """Id at the hub, or the package of a plug-in."""


def list_encoders() -> list[EncoderEntry]:
    """All encoders that have a name: those in the package, presets, and plug-ins of the group `wsikit.encoders`.

    Examples
    --------
    >>> entries = {entry.name: entry for entry in list_encoders()}
    >>> entries["plip"].texts, entries["virchow2"].width, entries["uni"].gated
    (True, 2560, True)
    """
    found = [_packaged(packaged_info(name)) for name in packaged.packaged_encoders()]
    found += [_entry(preset) for preset in presets().values()]
    for name in plugin_names("encoders"):
        if name not in presets():
            package = plugin_package("encoders", name)
            found.append(EncoderEntry(name, None, None, None, "", False, False, True, True, package))
    return found


def facts_of(name: str) -> dict[str, Any]:
    """Everything about a preset, as JSON values: what it is built with, sources, notes, and how to use it; of any other
    encoder, what its description holds.

    Raises
    ------
    ModelError
        There is no such encoder, or its weights are not here.
    PluginError
        It is a plug-in that cannot be imported.
    """
    if name in packaged.packaged_encoders():
        info = packaged_info(name)
        return _described(name, info)
    preset = presets().get(name)
    if preset is None:
        return _unlisted(name)
    return {
        **asdict(_entry(preset)),
        "page": preset.page,
        "files": list(preset.files),
        "kind": preset.kind,
        "architecture": preset.architecture,
        "options": dict(preset.options),
        "pooling": preset.pooling,
        "transform": preset.transform.record(),
        "parameters": preset.parameters,
        "shared_width": preset.shared_width,
        "notes": list(preset.note),
        "sources": {fact: sources()[key] for fact, key in preset.source.items()},
        "use": how_to_use(preset),
    }


def how_to_use(preset: Preset) -> str:
    """What to type for the features of this encoder, and before it if its weights are not here."""
    if not _supported(preset):
        return "this version of wsikit has no loader for it"
    command = f"wsikit features STORE --encoder {preset.name}"
    if preset_folder(preset) is not None:
        return command
    if preset.gated:
        return f"accept its terms at {preset.page}, then: hf auth login, then: {command} --download"
    return f"{command} --download"


def _unlisted(name: str) -> dict[str, Any]:
    """What is known of an encoder that is not in the list: its description, for which its weights must be here."""
    plain = name.partition("?")[0]
    if not any(mark in name for mark in ":=?./\\") and not Path(plain).exists() and not names.is_plugin(plain):
        raise ModelError(f"encoder {name!r}: no preset of this name; `wsikit encoders` lists them.{close_names(name)}")
    return _described(name, describe_encoder(name))


def _described(name: str, info: EncoderInfo) -> dict[str, Any]:
    """What a description holds; its weights are here."""
    return {
        **asdict(_packaged(info)),
        "shared_width": info.shared_width,
        "notes": [info.notice] if info.notice else [],
        "fingerprint": info.fingerprint,
        "use": _use_of(name, info),
    }


def _use_of(name: str, info: EncoderInfo) -> str:
    """What to type for its features and, with texts, for maps; its weights are here."""
    shown = f"'{name}'" if set(name) & set(" ?&*") else name
    features = f"wsikit features STORE --encoder {shown}"
    maps = f"\nwsikit localize STORE TEXT --encoder {shown}" if info.shared_width is not None else ""
    return features + maps


def packaged_info(name: str) -> EncoderInfo:
    """Description of an encoder that comes with the package."""
    folder = packaged.own_folder(name)
    assert folder is not None
    return packaged.describe_own(folder)


def _packaged(info: EncoderInfo) -> EncoderEntry:
    texts = info.shared_width is not None
    return EncoderEntry(
        info.name, info.width, info.patch_px, info.mpp, info.licence, False, texts, True, True, info.source
    )


def _entry(preset: Preset) -> EncoderEntry:
    return EncoderEntry(
        name=preset.name,
        width=preset.width,
        patch_px=preset.patch_px,
        mpp=preset.mpp,
        licence=preset.licence,
        gated=preset.gated,
        texts=preset.shared_width is not None,
        here=preset_folder(preset) is not None,
        supported=_supported(preset),
        source=preset.hub,
    )


def _supported(preset: Preset) -> bool:
    return preset.kind != "tower" or preset.architecture in towers()


def hub_place() -> str:
    """Folder of the local hub cache, in which weights are searched."""
    return str(weights.hub_cache())
