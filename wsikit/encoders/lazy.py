"""An encoder that is described now and loaded at first use. No torch is imported before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wsikit._lazy import Once
from wsikit.encoders.protocol import EncoderInfo, PatchEncoder

if TYPE_CHECKING:
    from wsikit.encoders.engine_choice import Choice


@dataclass(frozen=True)
class LazyEncoder:
    """What an encoder is, and the encoder itself when it is needed."""

    info: EncoderInfo
    load: Once[PatchEncoder]
    _choices: dict[tuple[str, str, int], Choice] = field(default_factory=dict)

    def engine(self, engine: str, precision: str, *, patch_px: int, rows: int) -> Choice:
        """The encoder, loaded, in an engine; made once for all slides. See `engine_choice.choose_engine`."""
        from wsikit.encoders.engine_choice import LEAST_ROWS, choose_engine

        key = (engine, precision, patch_px)
        known = self._choices.get(key)
        if known is None or not (known.final or rows < LEAST_ROWS):
            known = choose_engine(self.load(), engine=engine, precision=precision, patch_px=patch_px, rows=rows)
            self._choices[key] = known
        return known

    @classmethod
    def of(
        cls, encoder: LazyEncoder | PatchEncoder | str, *, device: str = "auto", download: bool = False
    ) -> LazyEncoder:
        """From an encoder, or a name as `wsikit.encoders.registry.load_encoder` takes it, which is described only.

        Raises
        ------
        ModelError
            There is no such encoder, or its weights are not here.
        """
        if isinstance(encoder, LazyEncoder):
            return encoder
        if not isinstance(encoder, str):
            given = encoder
            return cls(given.info, Once(lambda: given))
        from wsikit.encoders.registry import describe_encoder, load_encoder

        name = encoder
        info = describe_encoder(name, download=download)
        return cls(info, Once(lambda: load_encoder(name, device=device, download=download)))
