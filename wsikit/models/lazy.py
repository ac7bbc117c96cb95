"""A model that is described now and loaded at first use. No torch is imported before."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wsikit._lazy import Once
from wsikit.errors import ModelError
from wsikit.models.concept_setting import check_settings, info_with_concepts
from wsikit.models.config import DEFAULT_MODEL
from wsikit.models.protocol import Columns, ModelInfo, PatchModel, SetsConcepts
from wsikit.models.registry import describe_model, load_patch_model

ModelLike = PatchModel | str | os.PathLike[str]
"""A model, the name of a packaged model or plug-in, or a model's folder."""


@dataclass(frozen=True)
class LazyModel:
    """What a model is, and the model itself when it is needed."""

    info: ModelInfo
    load: Once[PatchModel]

    @property
    def predict(self) -> Callable[..., Columns]:
        """As `PatchModel.predict`; the model is loaded now."""
        return self.load().predict

    def with_concepts(self, options: Mapping[str, str]) -> LazyModel:
        """The model with concepts set by hand (`SetsConcepts`); itself without options. It is not loaded for that.

        Raises
        ------
        RequestError
            The model has no such axis or option.
        """
        if not options:
            return self
        chosen = dict(check_settings(self.info.axes, options, self.info.name))

        def load() -> PatchModel:
            model = self.load()
            if not isinstance(model, SetsConcepts):
                raise ModelError(f"model {self.info.name}: states axes and has no method with_concepts.")
            return model.with_concepts(chosen)

        return LazyModel(info_with_concepts(self.info, chosen), Once(load))

    @classmethod
    def of(cls, model: ModelLike | None, *, device: str = "auto") -> LazyModel:
        """From a model, its name or its folder; None: the packaged one. A name or folder is described, not loaded.

        Raises
        ------
        ModelError, PluginError
            There is no such model, or its folder is incomplete.
        """
        if isinstance(model, LazyModel):
            return model
        if model is not None and not isinstance(model, str | os.PathLike):
            loaded = model
            return cls(loaded.info, Once(lambda: loaded))
        spec = DEFAULT_MODEL if model is None else model
        return cls(describe_model(spec), Once(lambda: load_patch_model(spec, device=device)))  # type: ignore[arg-type]
