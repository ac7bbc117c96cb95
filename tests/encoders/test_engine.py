"""Engines: the same features as the encoder itself, in order, with a bounded queue, and a choice that is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from wsikit.encoders import engine_choice
from wsikit.encoders.engine import BATCH, FLOAT32_TOLERANCE, HALF_TOLERANCE, Engine, PlainEngine, Waits
from wsikit.encoders.engine_choice import choices_path, choose_engine
from wsikit.encoders.folding import folded
from wsikit.encoders.precision import cpu_has_bf16, precision_on
from wsikit.encoders.protocol import EncoderInfo
from wsikit.encoders.torch_encoder import TorchEncoder
from wsikit.encoders.torch_engine import CompiledEngine, TorchEngine
from wsikit.encoders.transform import Transform
from wsikit.errors import ModelError, RequestError


class Tokens(nn.Module):
    """Cuts images into tokens as a vision transformer does, with an embedding and one nonlinear layer."""

    def __init__(self, padding: int = 0, bias: bool = True) -> None:
        super().__init__()
        self.embed = nn.ModuleDict({"proj": nn.Conv2d(3, 16, 8, stride=8, padding=padding, bias=bias)})
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed["proj"](x).flatten(2).transpose(1, 2)
        return self.head(nn.functional.gelu(self.norm(tokens)).mean(dim=1))


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def tokens(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return Tokens(**options)


def encoder_of(module: nn.Module, crop: int = 32, device: str = "cpu") -> TorchEncoder:
    return TorchEncoder(module, EncoderInfo("tiny", 12, crop, 0.5, "tiny 1"), Transform(crop=crop), device=device)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))


def patches(number: int = 37, side: int = 32) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (number, side, side, 3), dtype=np.uint8)


def through(engine: Engine, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Features from the engine's stream."""
    parts = ((start, images[start : start + engine.batch]) for start in range(0, len(images), engine.batch))
    found = list(engine.stream(parts))
    assert [key for key, _ in found] == list(range(0, len(images), engine.batch))
    return np.concatenate([features[0] for _, features in found])


def error_of(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("module", [tokens(), tokens(bias=False), tokens(padding=4), convolutions()])
@pytest.mark.parametrize("side", [32, 48])
def test_float32_features_are_those_of_the_encoder(module: nn.Module, side: int) -> None:
    encoder = encoder_of(module)
    expected = encoder.encode(patches(side=side))
    found = through(TorchEngine(encoder, precision="float32"), patches(side=side))
    assert error_of(found, expected) < FLOAT32_TOLERANCE
    np.testing.assert_array_equal(encoder.encode(patches(side=side)), expected)  # the encoder is not changed


@pytest.mark.parametrize("module", [tokens(), convolutions()])
def test_bfloat16_is_within_its_tolerance(module: nn.Module) -> None:
    encoder = encoder_of(module)
    found = through(TorchEngine(encoder, precision="bfloat16"), patches())
    assert 0 < error_of(found, encoder.encode(patches())) < HALF_TOLERANCE


def test_the_normalisation_is_folded_into_a_convolution_without_padding_only() -> None:
    assert TorchEngine(encoder_of(tokens()), precision="float32").folds
    assert TorchEngine(encoder_of(tokens(bias=False)), precision="float32").folds
    assert not TorchEngine(encoder_of(tokens(padding=4)), precision="float32").folds
    assert not TorchEngine(encoder_of(tokens()), precision="bfloat16").folds


def test_nothing_is_folded_if_the_input_is_used_elsewhere_too() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 12, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mean(dim=(2, 3)) + x.mean(dim=(1, 2, 3))[:, None]

    assert folded(Skips().eval(), Transform(crop=32), torch.device("cpu")) is None


def test_a_row_depends_on_its_patch_only() -> None:
    engine = TorchEngine(encoder_of(tokens()), precision="float32")
    together, alone = through(engine, patches(9)), engine.encode(patches(9)[4:5])
    assert error_of(together[4:5], alone) < FLOAT32_TOLERANCE


def test_few_batches_are_taken_ahead_and_empty_ones_pass() -> None:
    engine = TorchEngine(encoder_of(tokens()), precision="float32", batch=2)
    taken: list[int] = []

    def source() -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        for number in range(60):
            taken.append(number)
            yield number, patches(2) if number % 7 else patches(0)

    for number, (features,) in engine.stream(source()):
        assert features.shape == ((2, 12) if number % 7 else (0, 12))
        assert len(taken) - number <= torch.get_num_threads() + 4


def test_an_encoder_that_is_no_torch_module_runs_as_it_is_and_cannot_have_another_engine() -> None:
    class Mean:
        info = EncoderInfo("mean", 3, 32, None, "1")

        def encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            return images.mean(axis=(1, 2)).astype(np.float32)

    engine = choose_engine(Mean()).engine
    assert isinstance(engine, PlainEngine)
    np.testing.assert_array_equal(through(engine, patches()), Mean().encode(patches()))
    with pytest.raises(RequestError, match="not a torch module"):
        choose_engine(Mean(), engine="onnx")


def test_an_error_of_one_batch_is_raised() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("this batch")

    engine = TorchEngine(encoder_of(Fails()), precision="bfloat16")
    with pytest.raises(ValueError, match="this batch"):
        through(engine, patches())


def test_features_of_another_width_than_described_are_refused() -> None:
    encoder = encoder_of(nn.Sequential(nn.Conv2d(3, 5, 32), nn.Flatten()))
    with pytest.raises(ModelError, match="expected"):
        through(TorchEngine(encoder, precision="float32"), patches())


def test_batches_of_compiled_modules_have_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def compiled(module: nn.Module, *, dynamic: bool) -> Any:
        def forward(x: Tensor) -> Tensor:
            sizes.append(len(x))
            return module(x)

        return forward

    monkeypatch.setattr(torch, "compile", compiled)
    encoder = encoder_of(tokens())
    found = through(CompiledEngine(encoder, precision="float32"), patches(37))
    assert set(sizes) == {BATCH["cpu"]}
    assert error_of(found, encoder.encode(patches(37))) < FLOAT32_TOLERANCE


def test_onnx_gives_the_same_features() -> None:
    for name in ("onnxruntime", "onnx", "onnxscript"):
        pytest.importorskip(name)
    encoder = encoder_of(tokens())
    engine = choose_engine(encoder, engine="onnx").engine
    assert error_of(through(engine, patches()), encoder.encode(patches())) < FLOAT32_TOLERANCE


def test_onnx_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsikit.encoders.onnx_engine.has_onnx", lambda: False)
    with pytest.raises(RequestError, match="pip install onnxruntime"):
        choose_engine(encoder_of(tokens()), engine="onnx")


class Quick(TorchEngine):
    name = "compile"

    def _forward(self, x: Tensor) -> Tensor:
        return super()._forward(x)


def test_the_fastest_engine_is_measured_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsikit.encoders.torch_engine.CompiledEngine", Quick)
    monkeypatch.setattr(engine_choice, "COMPILE_FROM_S", 0.0)
    measured: list[str] = []

    def speed(engine: Engine, images: Any) -> float:
        measured.append(engine.name)
        return 200.0 if engine.name == "compile" else 100.0

    monkeypatch.setattr(engine_choice, "patches_per_s", speed)
    few = choose_engine(encoder_of(tokens()), precision="bfloat16", patch_px=32, rows=10)
    assert (few.engine.name, few.final, measured) == ("torch", False, [])
    first = choose_engine(encoder_of(tokens()), precision="bfloat16", patch_px=32, rows=10_000)
    assert (first.engine.name, measured) == ("compile", ["torch", "compile"])
    record = json.loads(choices_path().read_text(encoding="utf-8"))
    assert [one["engine"] for one in record.values()] == ["compile"]
    again = choose_engine(encoder_of(tokens()), precision="bfloat16", patch_px=32, rows=10)
    assert (again.engine.name, measured) == ("compile", ["torch", "compile"])


def test_an_engine_with_other_features_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Quick):
        def _forward(self, x: Tensor) -> Tensor:
            return super()._forward(x) + 1

    monkeypatch.setattr("wsikit.encoders.torch_engine.CompiledEngine", Wrong)
    monkeypatch.setattr(engine_choice, "COMPILE_FROM_S", 0.0)
    monkeypatch.setattr(engine_choice, "patches_per_s", lambda engine, _: 1e9 if engine.name == "compile" else 1.0)
    found = choose_engine(encoder_of(tokens()), precision="bfloat16", patch_px=32, rows=10_000)
    assert found.engine.name == "torch"


def test_a_damaged_file_of_choices_is_no_obstacle() -> None:
    choices_path().parent.mkdir(parents=True)
    choices_path().write_text("{", encoding="utf-8")
    assert choose_engine(encoder_of(tokens()), precision="float32", patch_px=32, rows=5).engine.name == "torch"


def test_precision_follows_the_device() -> None:
    assert precision_on("cpu") == ("bfloat16" if cpu_has_bf16() else "float32")
    assert precision_on("cuda") == "bfloat16"
    with pytest.raises(RequestError, match="GPUs"):
        precision_on("cpu", "float16")
    with pytest.raises(RequestError, match="precision"):
        precision_on("cpu", "int8")


def test_what_more_time_was_waited_for_is_named() -> None:
    assert (Waits(2, 1).bound_by, Waits(1, 2).bound_by) == ("reading", "model")


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_on_a_gpu_features_are_those_of_the_cpu(precision: str) -> None:
    expected = encoder_of(tokens()).encode(patches(500))
    engine = TorchEngine(encoder_of(tokens(), device="cuda"), precision=precision, batch=64)
    assert error_of(through(engine, patches(500)), expected) < HALF_TOLERANCE


@needs_gpu
def test_on_a_gpu_without_memory_for_a_batch_it_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEngine(encoder_of(tokens(), device="cuda"), precision="float32", batch=64)
    plain = engine._features

    def small(images: Tensor) -> Tensor:
        if len(images) > 16:
            raise torch.cuda.OutOfMemoryError("too many")
        return plain(images)

    monkeypatch.setattr(engine, "_features", small)
    expected = encoder_of(tokens()).encode(patches(100))
    assert error_of(through(engine, patches(100)), expected) < HALF_TOLERANCE
