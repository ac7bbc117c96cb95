"""Weights that are NaN, infinite, unknown, missing or misshapen, in the folder of each kind of model: one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wsikit.encoders.packaged import load_own, own_folder
from wsikit.errors import ModelError
from wsikit.models.concept_config import ConceptHeadConfig
from wsikit.models.concept_criteria import read_criteria
from wsikit.models.concept_head import ConceptHead
from wsikit.models.config import DEFAULT_MODEL, ImageEncoderConfig, packaged_folder
from wsikit.models.encoders import ImageEncoder
from wsikit.models.head import HeadModel
from wsikit.models.head_config import HeadConfig
from wsikit.models.head_kind import save_head
from wsikit.models.mil import MilModel
from wsikit.models.mil_config import MilConfig
from wsikit.models.mil_kind import save_mil
from wsikit.models.mil_network import MilNetwork
from wsikit.models.model_folder import EncoderRecord
from wsikit.models.ood import OodDetector
from wsikit.models.registry import load_patch_model
from wsikit.tensor_files import check_finite, read_arrays

Refuses = Callable[..., None]
D = 4
ABOUT: dict[str, Any] = {
    "name": "toy", "version": "1", "classes": ("UD", "PD"), "class_names": ("UD", "PD"), "mpp": 0.5, "patch_px": 32,
    "colors": ("#112233", "#445566"), "stain": "H&E", "notice": "A test.",
}  # fmt: skip


def head(folder: Path, kind: str) -> Path:
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"mean": (D,), "scale": (D,), "weight": (D, 2), "bias": (2,)}
    if kind == "mlp":
        shapes = {"mean": (D,), "scale": (D,), "weight1": (D, 3), "bias1": (3,), "weight2": (3, 2), "bias2": (2,)}
    if kind == "knn":
        shapes = {"features": (6, D), "labels": (6,), "prior": (2,)}
    extra = {"neighbours": 3, "metric": "cosine"} if kind == "knn" else {}
    config = HeadConfig(**ABOUT, **extra, kind=kind, encoder=EncoderRecord(name="toy", width=D), temperature=1.0)
    arrays = {name: rng.uniform(0.5, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    detector = OodDetector.fit(rng.normal(size=(200, D)), rng.normal(size=(200, D)))
    return save_head(HeadModel(config, arrays, ood=detector), folder, card="")


def concepts(folder: Path, scores: str) -> Path:
    criteria = read_criteria("inpc").only(("neuropil", "differentiation"))
    s, rng = criteria.n_options, np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"weight": (s, 2), "bias": (2,), "centre": (s,), "set_to": (s, s)}
    extra: dict[str, Any] = {"mode": "bottleneck"}
    if scores == "facts":
        shapes["knots"] = (s,)
    elif scores == "learned":
        shapes |= {"mean": (D,), "scale": (D,), "concept_weight": (D, s), "concept_bias": (s,)}
    else:
        extra = {"mode": "attend", "width": 8, "heads": 2, "anchors": "lexicon"}
    arrays = {name: rng.uniform(0.1, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    if scores == "attention":
        from wsikit.models.concept_attention import ConceptAttention

        module = ConceptAttention(D, torch.randn(s, 8), criteria.columns, width=8, heads=2)
        arrays |= {f"attention.{name}": value.detach().numpy() for name, value in module.state_dict().items()}
    if scores != "facts":
        extra["encoder"] = EncoderRecord(name="toy", width=D)
    config = ConceptHeadConfig(**ABOUT, **extra, scores=scores, criteria=criteria, labels="none", temperature=1.0)
    return save_head(ConceptHead(config, arrays), folder, card="")


def mil(folder: Path, pooling: str, *, own_image: bool = False) -> Path:
    torch.manual_seed(0)
    encoder = None
    extra: dict[str, Any] = {"encoder": EncoderRecord(name="toy", width=D)}
    width = D
    if own_image:
        image = ImageEncoderConfig(name="resnet10t", options={"channels": [4, 8, 8, 16], "stem_width": 4})
        encoder, width = ImageEncoder(image, patch_px=32, plain=True), 16
        extra = {"image": image}
    config = MilConfig(**ABOUT, **extra, task="classes", pooling=pooling, members=1)
    net = MilNetwork(width, hidden=8, attention=4, outputs=2, pooling=pooling, task="classes", cuts=0)
    arrays = {f"0.{name}": value for name, value in net.arrays().items()}
    weights = None if encoder is None else {name: value.numpy() for name, value in encoder.state_dict().items()}
    return save_mil(
        MilModel(config, arrays, encode=None if encoder is None else lambda x: x), folder, card="", image=weights
    )


@pytest.mark.parametrize("kind", ["linear", "mlp", "knn"])
def test_a_head(kind: str, fault_of_weights: str, refuses_spoilt_weights: Refuses, tmp_path: Path):
    folder = head(tmp_path / "model", kind)
    refuses_spoilt_weights(folder / "model.safetensors", fault_of_weights, lambda: load_patch_model(folder))


def test_an_ood_detector(fault_of_weights: str, refuses_spoilt_weights: Refuses, tmp_path: Path):
    folder = head(tmp_path / "model", "linear")
    refuses_spoilt_weights(folder / "novelty.safetensors", fault_of_weights, lambda: load_patch_model(folder))


@pytest.mark.parametrize("scores", ["facts", "learned", "attention"])
def test_a_concept_head(scores: str, fault_of_weights: str, refuses_spoilt_weights: Refuses, tmp_path: Path):
    folder = concepts(tmp_path / "model", scores)
    refuses_spoilt_weights(folder / "model.safetensors", fault_of_weights, lambda: load_patch_model(folder))


@pytest.mark.parametrize("pooling", ["abmil", "mean"])
def test_a_model_on_labels_of_slides(
    pooling: str, fault_of_weights: str, refuses_spoilt_weights: Refuses, tmp_path: Path
):
    folder = mil(tmp_path / "model", pooling)
    refuses_spoilt_weights(folder / "model.safetensors", fault_of_weights, lambda: load_patch_model(folder))


def test_its_own_image_encoder(fault_of_weights: str, refuses_spoilt_weights: Refuses, tmp_path: Path):
    folder = mil(tmp_path / "model", "mean", own_image=True)
    load = lambda: load_patch_model(folder, device="cpu")  # noqa: E731
    refuses_spoilt_weights(folder / "image.safetensors", fault_of_weights, load)


def test_a_patch_model(fault_of_weights: str, refuses_spoilt_weights: Refuses, tmp_path: Path):
    folder = shutil.copytree(packaged_folder(DEFAULT_MODEL), tmp_path / "model")
    load = lambda: load_patch_model(folder, device="cpu")  # noqa: E731
    refuses_spoilt_weights(folder / "model.safetensors", fault_of_weights, load)


def test_an_encoder_of_images_and_texts(fault_of_weights: str, refuses_spoilt_weights: Refuses, tmp_path: Path):
    packaged = own_folder("phantom-afloc")
    assert packaged is not None
    folder = shutil.copytree(packaged, tmp_path / "model")
    refuses_spoilt_weights(folder / "model.safetensors", fault_of_weights, lambda: load_own(folder, device="cpu"))


@pytest.mark.parametrize("fault", ["nan", "missing"])
def test_weights_that_a_training_starts_from(fault: str, refuses_spoilt_weights: Refuses, tmp_path: Path):
    import timm
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModel

    from wsikit.models.encoders import TextEncoder, text_config_of

    encoder = ImageEncoder(ImageEncoderConfig(name="lcnet_035"), patch_px=32)
    path = tmp_path / "image.safetensors"
    save_file(timm.create_model("lcnet_035", num_classes=0).state_dict(), path)
    if fault == "nan":  # the last name is a classifier's, or may be missing
        refuses_spoilt_weights(path, fault, lambda: encoder.load_weights(path))
    sizes = {"vocab_size": 50, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
    AutoModel.from_config(AutoConfig.for_model("distilbert", **sizes)).save_pretrained(tmp_path)
    texts = TextEncoder(text_config_of(tmp_path))
    load = lambda: texts.load_weights(tmp_path)  # noqa: E731
    refuses_spoilt_weights(tmp_path / "model.safetensors", fault, load, place=str(tmp_path))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn"])
def test_every_type_of_numbers_is_looked_at(dtype: str):
    values = torch.ones(3, 2).to(getattr(torch, dtype))
    check_finite({"a": values, "empty": values[:0], "count": torch.tensor(5)}, "w")
    values = values.float()
    values[1, 1] = float("nan")
    with pytest.raises(ModelError, match=r"^w: b has values that are NaN or infinite \(1 of 2 tensors\)"):
        check_finite({"a": torch.ones(2), "b": values.to(getattr(torch, dtype))}, "w")


def test_numbers_that_numpy_cannot_hold_are_refused(tmp_path: Path):
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="w.safetensors: damaged or not safetensors"):
        read_arrays(tmp_path / "w.safetensors")
