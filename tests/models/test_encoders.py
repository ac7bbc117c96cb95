"""Any encoder of timm and transformers, from configuration or from this disk, and the tokenizer between."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel

from wsikit.errors import ModelError, PluginError
from wsikit.models.config import ImageEncoderConfig, ModelConfig, TextEncoderConfig
from wsikit.models.encoders import ImageEncoder, TextEncoder, text_config_of
from wsikit.models.io import load_model, save_model
from wsikit.models.mmlnb import MMLNB
from wsikit.models.tokenizer import CaptionTokenizer

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 40,
}


def patches(n: int, side: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lcnet_035", {}),
        ("resnet18", {"channels": [4, 8, 8, 8]}),
        ("vit_tiny_patch16_224", {"img_size": 64, "embed_dim": 24, "depth": 1, "num_heads": 2}),
    ],
)
def test_any_image_encoder_of_timm_gives_one_row_of_features_per_patch(name: str, options: dict):
    encoder = ImageEncoder(ImageEncoderConfig(name=name, options=options), patch_px=64).eval()
    assert encoder(patches(2)).shape == (2, encoder.width)


def test_patches_are_normalised_inside():
    encoder = ImageEncoder(ImageEncoderConfig(name="lcnet_035"), patch_px=64).eval()
    seen: list[torch.Tensor] = []
    encoder.body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = patches(2)
    encoder(images)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((images.numpy() / 255.0 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(seen[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"), [("no_such_net", "no such model"), ("hf-hub:timm/resnet18.a1_in1k", "no such model")]
)
def test_an_encoder_that_timm_does_not_hold_is_refused_and_never_fetched(name: str, message: str):
    with pytest.raises(ModelError, match=message):
        ImageEncoder(ImageEncoderConfig(name=name), patch_px=64)


@pytest.fixture
def announce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a distribution that announces encoders, as pip would, for the duration of a test."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "plugins")
    monkeypatch.syspath_prepend(tmp_path)

    def install(**encoders: str) -> None:
        folder = tmp_path / "toy-0.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 0.1\n")
        lines = [f"{name} = {value}" for name, value in encoders.items()]
        (folder / "entry_points.txt").write_text("\n".join(["[wsikit.encoders]", *lines]))
        importlib.invalidate_caches()

    return install


def test_an_encoder_of_another_package_is_found_by_its_name(announce: Callable[..., None]):
    announce(toy="toy_encoder:ColourEncoder")
    encoder = ImageEncoder(ImageEncoderConfig(name="toy", options={"width": 5}), patch_px=64)
    assert encoder.width == 5
    assert encoder(patches(3)).shape == (3, 5)


def test_a_model_with_an_encoder_of_another_package_is_saved_and_loaded(
    announce: Callable[..., None], tiny_config: ModelConfig, tmp_path: Path
):
    announce(toy="toy_encoder:ColourEncoder")
    config = tiny_config.model_copy(update={"image": ImageEncoderConfig(name="toy", options={"width": 12})})
    torch.manual_seed(0)
    model = MMLNB(config, CaptionTokenizer.train(["dense nuclei"], vocabulary=60, max_tokens=24)).eval()
    save_model(model, tmp_path / "model", card="a card")
    loaded = load_model(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(loaded.image(patches(2)), model.image(patches(2)))


def test_weights_of_an_encoder_of_another_package_come_from_safetensors(announce: Callable[..., None], tmp_path: Path):
    announce(toy="toy_encoder:ColourEncoder")
    config = ImageEncoderConfig(name="toy")
    first, second = ImageEncoder(config, patch_px=64), ImageEncoder(config, patch_px=64)
    save_file(first.body.state_dict(), tmp_path / "weights.safetensors")
    second.load_weights(tmp_path / "weights.safetensors")
    assert torch.equal(first(patches(2)), second(patches(2)))


@pytest.mark.parametrize(
    ("value", "options", "error", "message"),
    [
        ("no_such_module:Encoder", {}, PluginError, r"package toy 0\.1\) cannot be imported: ModuleNotFoundError"),
        ("toy_encoder:ColourEncoder", {"depth": 3}, ModelError, "cannot be built with options.*depth"),
        ("builtins:dict", {}, ModelError, "gave dict; expected a torch.nn.Module with an integer num_features"),
    ],
)
def test_a_broken_encoder_of_another_package_is_named_with_its_error(
    announce: Callable[..., None], value: str, options: dict, error: type[Exception], message: str
):
    announce(toy=value)
    with pytest.raises(error, match=f"toy.*{message}"):
        ImageEncoder(ImageEncoderConfig(name="toy", options=options), patch_px=64)


def test_the_error_for_an_unknown_encoder_lists_the_plug_ins(announce: Callable[..., None]):
    announce(toy="toy_encoder:ColourEncoder")
    with pytest.raises(ModelError, match="installed: toy"):
        ImageEncoder(ImageEncoderConfig(name="toi"), patch_px=64)


def test_an_image_encoder_takes_weights_from_safetensors_and_leaves_their_classifier(tmp_path: Path):
    torch.manual_seed(1)
    pretrained = timm.create_model("lcnet_035", num_classes=7).eval()
    save_file(pretrained.state_dict(), tmp_path / "model.safetensors")
    encoder = ImageEncoder(ImageEncoderConfig(name="lcnet_035"), patch_px=64).eval()
    encoder.load_weights(tmp_path / "model.safetensors")
    x = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        expected = pretrained.forward_head(pretrained.forward_features(x), pre_logits=True)
        assert torch.equal(encoder.body(x), expected)


def test_weights_of_another_image_encoder_are_refused(tmp_path: Path):
    save_file(timm.create_model("lcnet_050", num_classes=0).state_dict(), tmp_path / "model.safetensors")
    encoder = ImageEncoder(ImageEncoderConfig(name="resnet18"), patch_px=64)
    with pytest.raises(ModelError, match="not the weights of this encoder"):
        encoder.load_weights(tmp_path / "model.safetensors")


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta"])
def test_any_text_encoder_of_transformers_gives_one_row_of_features_per_caption(model_type: str):
    options = dict(SMALL)
    if model_type == "distilbert":
        options = {"vocab_size": 50, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
    encoder = TextEncoder(TextEncoderConfig(model_type=model_type, options=options)).eval()
    ids = torch.randint(4, 50, (3, 9), generator=torch.Generator().manual_seed(0))
    assert encoder(ids, torch.ones_like(ids)).shape == (3, 16)
    assert encoder.width == 16


def test_without_a_pooler_the_mean_is_over_the_words_and_not_over_the_padding():
    torch.manual_seed(0)
    options = {"vocab_size": 50, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
    encoder = TextEncoder(TextEncoderConfig(model_type="distilbert", options=options)).eval()
    short = torch.tensor([[5, 6, 7]])
    long = torch.tensor([[5, 6, 7, 0, 0, 0]])
    with torch.no_grad():
        one = encoder(short, torch.ones_like(short))
        two = encoder(long, torch.tensor([[1, 1, 1, 0, 0, 0]]))
    torch.testing.assert_close(one, two)


def test_a_text_encoder_is_taken_from_a_local_folder_of_transformers(tmp_path: Path):
    torch.manual_seed(2)
    original = AutoModel.from_config(AutoConfig.for_model("bert", **SMALL)).eval()
    original.save_pretrained(tmp_path)
    encoder = TextEncoder(text_config_of(tmp_path)).eval()
    encoder.load_weights(tmp_path)
    ids = torch.tensor([[2, 5, 9, 3]])
    with torch.no_grad():
        assert torch.equal(encoder(ids, torch.ones_like(ids)), original(input_ids=ids).pooler_output)


def test_a_folder_without_safetensors_gives_no_text_encoder(tmp_path: Path):
    config = AutoConfig.for_model("bert", **SMALL)
    config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(ModelError, match="safetensors"):
        TextEncoder(text_config_of(tmp_path)).load_weights(tmp_path)


def test_missing_and_blank_captions_are_marked_and_long_ones_counted():
    tokenizer = CaptionTokenizer.train(["neuropil absent", "dense nuclei"], vocabulary=60, max_tokens=6)
    tokens = tokenizer(["neuropil absent", None, "  ", "dense nuclei " * 20])
    assert tokens.present.tolist() == [True, False, False, True]
    assert tokens.truncated == 1
    assert tokens.ids.shape == tokens.mask.shape == (4, 6)


def test_numbers_are_read_digit_by_digit():
    tokenizer = CaptionTokenizer.train(["1250 per mm2", "3847 per mm2 96"], vocabulary=80, max_tokens=20)
    unseen, short = tokenizer(["9999"]), tokenizer(["9"])
    assert unseen.mask.sum() == short.mask.sum() + 3
    assert len(set(unseen.ids[0, 1:5].tolist())) == 1
