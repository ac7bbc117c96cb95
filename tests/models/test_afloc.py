"""AFLoc as a model, as a folder, and as an encoder of patches and texts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from wsikit.encoders.packaged import describe_own, load_own, own_folder
from wsikit.encoders.protocol import TextImageEncoder
from wsikit.encoders.registry import describe_encoder, load_encoder
from wsikit.errors import ModelError, RequestError
from wsikit.models.afloc import AFLoc
from wsikit.models.afloc_config import AflocConfig, read_afloc_config
from wsikit.models.afloc_encoder import AflocEncoder, load_afloc, load_afloc_encoder
from wsikit.models.config import ImageEncoderConfig, TextEncoderConfig
from wsikit.models.io import save_model
from wsikit.models.tokenizer import CaptionTokenizer

TEXTS = ["neuropil", "no necrosis", "abundant neuropil and ganglion cells"]


def tiny(**changes: object) -> AFLoc:
    tokenizer = CaptionTokenizer.train(TEXTS, vocabulary=60, max_tokens=24)
    options = {
        "vocab_size": tokenizer.vocabulary, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 24,
    }  # fmt: skip
    settings: dict[str, object] = {
        "name": "tiny-afloc", "version": "1", "mpp": 0.5, "patch_px": 32, "stain": "H&E", "captioner": "table",
        "text_max_tokens": 24, "width": 8, "image_width": 16, "notice": "a test",
        "image": ImageEncoderConfig(name="resnet10t", options={"channels": [4, 8, 8, 16], "stem_width": 4}),
        "text": TextEncoderConfig(model_type="bert", options=options),
    }  # fmt: skip
    torch.manual_seed(0)
    return AFLoc(AflocConfig.model_validate(settings | changes), tokenizer).eval()


def patches(n: int = 3, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(tiny(), tmp_path / "model", card="a card")


def test_a_folder_is_an_encoder_by_its_path(folder: Path) -> None:
    encoder = load_encoder(folder, device="cpu")
    assert isinstance(encoder, TextImageEncoder)
    assert encoder.info == describe_encoder(folder)
    assert (encoder.info.width, encoder.info.shared_width, encoder.info.mpp) == (16, 8, 0.5)
    assert encoder.logit_scale == pytest.approx(10.0)
    shared, texts = encoder.encode_shared(patches()), encoder.encode_texts(TEXTS)
    assert (shared.shape, texts.shape, shared.dtype) == ((3, 8), (3, 8), np.float32)
    np.testing.assert_allclose(np.linalg.norm(shared, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, rtol=1e-5)


def test_a_saved_model_gives_the_same_places(folder: Path) -> None:
    model = tiny()
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(model.patches(torch.from_numpy(patches())), dim=-1)
    np.testing.assert_allclose(load_afloc_encoder(folder, device="cpu").encode_shared(patches()), expected, rtol=1e-5)


def test_a_row_depends_on_its_own_patch_and_text_only(folder: Path) -> None:
    encoder = load_afloc_encoder(folder, device="cpu")
    np.testing.assert_allclose(encoder.encode_shared(patches())[:1], encoder.encode_shared(patches()[:1]), rtol=1e-4)
    np.testing.assert_array_equal(encoder.encode_texts(TEXTS)[:1], encoder.encode_texts(TEXTS[:1]))


def test_one_word_prompts_differ_from_each_other_and_empty_ones_are_refused(folder: Path) -> None:
    encoder = load_afloc_encoder(folder, device="cpu")
    places = encoder.encode_texts(["neuropil", "necrosis"])
    assert np.linalg.norm(places[0] - places[1]) > 1e-3
    for empty in ("", "  "):
        with pytest.raises(RequestError, match="is empty"):
            encoder.encode_texts(["neuropil", empty])


def test_words_are_sums_of_their_pieces_without_special_tokens() -> None:
    model = tiny()
    words, mask = model.words(["abundant neuropil", "neuropil"])
    assert mask.tolist() == [[True, True], [True, False]]
    tokens = model.tokenizer(["abundant neuropil"])
    hidden = model.text.tokens(torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask))[0]
    of_word = model.tokenizer.words(["abundant neuropil"])[0]
    assert (of_word[0], of_word[-1]) == (-1, -1)
    torch.testing.assert_close(words[0, 1], hidden[torch.from_numpy(of_word) == 1].sum(dim=0), atol=1e-5, rtol=1e-4)


def test_the_length_of_other_texts_does_not_scale_a_text() -> None:
    model = tiny()
    with torch.inference_mode():
        alone, padded = model.sentences(["neuropil"]), model.sentences(["neuropil", TEXTS[2] * 2])[:1]
    torch.testing.assert_close(alone, padded, atol=1e-5, rtol=1e-4)


def test_patches_of_another_size_are_resized(folder: Path) -> None:
    encoder = load_afloc_encoder(folder, device="cpu")
    flat = np.full((1, 64, 64, 3), 90, np.uint8)
    np.testing.assert_allclose(encoder.encode(flat), encoder.encode(flat[:, :32, :32]), rtol=1e-5)
    with pytest.raises(ModelError, match="expected"):
        encoder.encode(flat[:, :, :32])


def test_a_bag_of_one_patch_is_the_patch_and_its_order_does_not_matter() -> None:
    model, features = tiny(), torch.randn(2, 5, 16)
    with torch.inference_mode():
        torch.testing.assert_close(model.bag(features), model.bag(features[:, [4, 2, 0, 1, 3]]))
        torch.testing.assert_close(model.bag(features[:, :1]), model.heads.of_bag(features[:, 0]))


def test_the_feature_map_has_the_cells_of_the_image_encoder() -> None:
    model = tiny()
    with torch.inference_mode():
        cells, features = model.cells_and_features(torch.from_numpy(patches(2, 64)))
        assert cells.shape == (2, 16, 8)  # 64 px / 16, squared
        torch.testing.assert_close(features, model.image(torch.from_numpy(patches(2, 64))))


def test_an_encoder_of_timm_gives_the_same_features_with_its_map() -> None:
    image = ImageEncoderConfig(name="resnet10t", options={"channels": [4, 8, 8, 16], "stem_width": 4, "in_chans": 3})
    model = tiny(image=image)
    assert type(model.image.body).__module__.startswith("timm")
    with torch.inference_mode():
        cells, features = model.image.map_and_features(torch.from_numpy(patches()))
        torch.testing.assert_close(features, model.image(torch.from_numpy(patches())))
    assert cells.shape == (3, 8, 2, 2)


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder_is_refused(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=missing):
        describe_encoder(folder)


def test_damaged_weights_and_those_of_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="damaged"):
        load_afloc(folder)
    other = save_model(tiny(width=4), tmp_path / "other", card="")
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="do not fit"):
        load_afloc(folder)


def test_a_folder_of_something_else_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    assert own_folder(str(tmp_path)) is None
    with pytest.raises(ModelError, match="missing"):
        read_afloc_config(tmp_path)


def test_the_packaged_encoder_is_described_without_torch_and_loads_without_the_libraries() -> None:
    code = (
        "import sys; from wsikit.encoders.registry import describe_encoder, load_encoder\n"
        "info = describe_encoder('phantom-afloc')\n"
        "assert info.notice.startswith('DEMONSTRATION') and 'torch' not in sys.modules, sorted(sys.modules)\n"
        "encoder = load_encoder('phantom-afloc', device='cpu')\n"
        "assert encoder.encode_texts(['neuropil']).shape == (1, info.shared_width)\n"
        "assert not {'timm', 'transformers', 'torchvision'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_packaged_encoder_finds_the_tissue_that_is_asked_for() -> None:
    from wsikit.phantom import phantom_patches

    shown = [patch for patch in phantom_patches([7_000_001], 3) if patch.facts.fraction("neuropil")[0] > 0.12]
    without = [patch for patch in phantom_patches([7_000_002], 3) if patch.facts.fraction("neuropil")[0] == 0]
    folder = own_folder("phantom-afloc")
    assert folder is not None
    encoder = load_own(folder, device="cpu")
    assert isinstance(encoder, AflocEncoder)
    assert describe_own(folder) == encoder.info
    asked = encoder.encode_texts(["neuropil", "no neuropil"])
    scores = encoder.encode_shared(np.stack([one.image for one in (*shown, *without)])) @ (asked[0] - asked[1])
    assert scores[: len(shown)].min() > scores[len(shown) :].max()
