"""Weights from folders, files, the hub's cache and plug-ins: right features, or one line."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.json_changes import changed
from wsikit.encoders import names
from wsikit.encoders.file_models import TorchScriptModule
from wsikit.encoders.presets import presets
from wsikit.encoders.protocol import TextImageEncoder
from wsikit.encoders.registry import describe_encoder, load_encoder
from wsikit.errors import ModelError, RequestError

Put = Callable[[str, Path], Path]


def normalised(patches: np.ndarray, mean: Any, std: Any) -> torch.Tensor:
    scaled = (patches / 255 - np.array(mean)) / np.array(std)
    return torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32))


def refused(name: str | Path, *parts: str, **options: Any) -> None:
    with pytest.raises(ModelError) as error:
        load_encoder(name, device="cpu", **options)
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_a_folder_of_timm_gives_timms_features_without_its_classifier(timm_folder: Path, patches: np.ndarray) -> None:
    import timm
    from safetensors.torch import load_file

    encoder = load_encoder(timm_folder, device="cpu")
    assert (encoder.info.name, encoder.info.width, encoder.info.patch_px) == ("small-vit", 24, 32)
    assert encoder.info.licence == "mit"
    options = json.loads((timm_folder / "config.json").read_text())["model_args"]
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=3, **options).eval()
    model.load_state_dict(load_file(timm_folder / "model.safetensors"))
    with torch.inference_mode():
        tokens = model.forward_features(normalised(patches, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)))
    np.testing.assert_allclose(encoder.encode(patches), tokens[:, 0], atol=1e-5)
    both = load_encoder(f"{timm_folder}?pooling=cls+mean", device="cpu")
    assert both.info.name == "small-vit-cls-mean"
    expected = torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1)
    np.testing.assert_allclose(both.encode(patches), expected, atol=1e-5)


@pytest.mark.parametrize(("pooling", "first"), [("cls", 0), ("mean", 5), ("cls+mean", None), ("pooler", 0)])
def test_a_folder_of_transformers_is_pooled_as_asked(
    dinov2_folder: Path, patches: np.ndarray, pooling: str, first: int | None
) -> None:
    from transformers import AutoModel

    encoder = load_encoder(f"{dinov2_folder}?pooling={pooling}", device="cpu")
    model = AutoModel.from_pretrained(dinov2_folder).eval()
    cut = patches[:, 2:30, 2:30]
    with torch.inference_mode():
        hidden = model(
            normalised(cut, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
        ).last_hidden_state
    mean = hidden[:, 5:].mean(1)
    expected = {
        "cls": hidden[:, 0],
        "pooler": hidden[:, 0],
        "mean": mean,
        "cls+mean": torch.cat([hidden[:, 0], mean], 1),
    }
    np.testing.assert_allclose(encoder.encode(patches), expected[pooling], atol=1e-5)
    if pooling == "cls":
        assert describe_encoder(dinov2_folder).fingerprint == encoder.info.fingerprint  # cls is the default


def test_images_and_texts_of_a_clip_share_a_space(clip_folder: Path, patches: np.ndarray) -> None:
    from transformers import AutoTokenizer, CLIPModel

    encoder = load_encoder(clip_folder, device="cpu")
    assert isinstance(encoder, TextImageEncoder)
    assert (encoder.info.width, encoder.info.shared_width) == (16, 16)
    model: Any = CLIPModel.from_pretrained(clip_folder).eval()
    texts = ["neuropil", "a stroma of blood tissue"]
    tokens = AutoTokenizer.from_pretrained(clip_folder)(texts, padding=True, return_tensors="pt")
    images = normalised(patches, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    with torch.inference_mode():
        out = model(pixel_values=images, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    places, words = encoder.encode_shared(patches), encoder.encode_texts(texts)
    np.testing.assert_allclose(places, out.image_embeds, atol=1e-5)
    np.testing.assert_allclose(words, out.text_embeds, atol=1e-5)
    np.testing.assert_allclose(encoder.logit_scale * places @ words.T, out.logits_per_image, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(encoder.encode_texts(texts[:1]), words[:1], atol=1e-5)
    assert encoder.encode_texts([]).shape == (0, 16)


@pytest.mark.parametrize("text", ["", "  ", "a a a a a a a"])
def test_an_empty_or_too_long_text_is_refused(clip_folder: Path, text: str) -> None:
    encoder: Any = load_encoder(clip_folder, device="cpu")
    with pytest.raises(RequestError, match="text 2 of 2"):
        encoder.encode_texts(["blood", text])


def test_a_preset_takes_its_weights_from_the_cache_or_a_place(
    put: Put, timm_folder: Path, patches: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = presets()["uni"].model_copy(
        update={"options": {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32}, "width": 24, "patch_px": 32,
                "transform_": presets()["uni"].transform_.model_copy(update={"crop": 32})}
    )  # fmt: skip
    monkeypatch.setattr(names, "presets", lambda: {"uni": small})
    refused("uni", "gated", "huggingface.co/MahmoodLab/UNI", "hf auth login", "--download")
    snapshot = put("MahmoodLab/uni", timm_folder)
    encoder = load_encoder("uni", device="cpu")
    assert encoder.info.source == f"MahmoodLab/uni@{'a' * 40}"
    assert (encoder.info.name, encoder.info.licence) == ("uni", "CC-BY-NC-ND-4.0")
    same = [load_encoder(f"uni={place}", device="cpu") for place in (timm_folder, snapshot / "model.safetensors")]
    assert {other.info.fingerprint for other in same} == {encoder.info.fingerprint}
    assert np.array_equal(same[0].encode(patches), encoder.encode(patches))


def test_other_weights_pooling_or_preparation_give_another_fingerprint(timm_folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    first = describe_encoder(timm_folder).fingerprint
    found = {first, describe_encoder(f"{timm_folder}?pooling=mean").fingerprint}
    config = (timm_folder / "config.json").read_text()
    (timm_folder / "config.json").write_text(config.replace("bicubic", "bilinear"))
    found.add(describe_encoder(timm_folder).fingerprint)
    (timm_folder / "config.json").write_text(config)
    state = load_file(timm_folder / "model.safetensors")
    state["norm.bias"][0] += 1
    save_file(state, timm_folder / "model.safetensors")
    found.add(describe_encoder(timm_folder).fingerprint)
    assert len(found) == 4


def test_weights_of_another_model_are_refused(timm_folder: Path) -> None:
    config = json.loads((timm_folder / "config.json").read_text())
    config["model_args"]["depth"] = 3
    (timm_folder / "config.json").write_text(json.dumps(config))
    refused(timm_folder, "model.safetensors", "missing", "blocks.2")


def test_a_preset_refuses_a_folder_whose_configuration_is_another(dinov2_folder: Path) -> None:
    refused(f"hibou-b={dinov2_folder}", "config.json", "hidden_size is 24", "768")


def test_a_folder_of_transformers_with_missing_weights_is_refused(dinov2_folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(dinov2_folder / "model.safetensors")
    state.pop("layernorm.weight")
    save_file(state, dinov2_folder / "model.safetensors", metadata={"format": "pt"})
    refused(dinov2_folder, "layernorm.weight")


def test_a_pickle_is_not_opened(timm_folder: Path) -> None:
    (timm_folder / "model.safetensors").unlink()

    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("code of the file was run",)

    (timm_folder / "pytorch_model.bin").write_bytes(pickle.dumps({"norm.weight": Harmful()}))
    refused(timm_folder, "pytorch_model.bin", "not read")


def test_weights_saved_by_torch_give_the_same_features(timm_folder: Path, patches: np.ndarray) -> None:
    from safetensors.torch import load_file

    before = load_encoder(timm_folder, device="cpu").encode(patches)
    torch.save({"state_dict": load_file(timm_folder / "model.safetensors")}, timm_folder / "pytorch_model.bin")
    (timm_folder / "model.safetensors").unlink()
    assert np.array_equal(load_encoder(timm_folder, device="cpu").encode(patches), before)


class Mean(torch.nn.Module):
    """Mean colour, twice."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images.mean(dim=(2, 3)), images.amax(dim=(2, 3))], dim=1)


CARD = {
    "width": 6,
    "patch_px": 32,
    "mpp": 0.5,
    "licence": "MIT",
    "transform": {"crop": 32, "interpolation": "bilinear"},
}


def test_a_torchscript_file_with_its_card_is_an_encoder(tmp_path: Path, patches: np.ndarray) -> None:
    path = tmp_path / "Mean_Colour.pt"
    torch.jit.script(Mean()).save(path)
    refused(path, "Mean_Colour.pt.json", '"width"')
    Path(f"{path}.json").write_text(json.dumps(CARD))
    encoder = load_encoder(path, device="cpu")
    assert (encoder.info.name, encoder.info.mpp, encoder.info.licence) == ("mean-colour", 0.5, "MIT")
    images = normalised(patches, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    np.testing.assert_allclose(encoder.encode(patches), Mean()(images), atol=1e-5)
    Path(f"{path}.json").write_text(json.dumps({**CARD, "width": 7}))
    with pytest.raises(ModelError, match="expected"):
        load_encoder(path, device="cpu").encode(patches)
    Path(f"{path}.json").write_text(json.dumps({**CARD, "wide": 7}))
    refused(path, "wide")


def _onnx(path: Path, *, scale: float = 1.0) -> Path:
    """A file of ONNX and its card: the mean of each channel times `scale`, its only weight."""
    pytest.importorskip("onnxruntime")
    helper: Any = pytest.importorskip("onnx.helper")
    one = 1  # TensorProto.FLOAT
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Mul", ["m", "scale"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", one, [2, 3, 32, 32])],
        [helper.make_tensor_value_info("y", one, [2, 3])], [helper.make_tensor("scale", one, [1], [scale])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    Path(f"{path}.json").write_text(json.dumps({**CARD, "width": 3}))
    return path


def test_an_onnx_file_with_its_card_is_an_encoder(tmp_path: Path, patches: np.ndarray) -> None:
    encoder = load_encoder(_onnx(tmp_path / "mean.onnx"), device="cpu")
    images = normalised(patches, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    np.testing.assert_allclose(encoder.encode(patches), images.mean(dim=(2, 3)), atol=1e-5)  # 3 patches, batches of 2


def test_an_onnx_file_without_onnxruntime_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    path = tmp_path / "m.onnx"
    path.write_bytes(b"onnx")
    Path(f"{path}.json").write_text(json.dumps(CARD))
    refused(path, "onnxruntime", "wsikit[onnx]")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("uni3", "Did you mean 'uni'"),
        ("", "not found"),
        ("uni?pooling=middle", "cls+mean"),
        ("hf-hub:someone/some-model", "someone/some-model"),
        ("hf-hub:paige-ai/Virchow2", "gated"),
        ("timm:resnet18", "timm/resnet18.a1_in1k"),
        ("timm:no_such_model", "no_such_model"),
        ("phikon-v2", "--download"),
    ],
)
def test_what_is_not_here_is_refused_without_asking_the_network(cache: Path, name: str, said: str) -> None:
    refused(name, said)


@pytest.mark.parametrize("name", ["random:test_resnet", "random:test_vit2"])
def test_a_class_token_is_not_taken_from_a_model_that_has_none(name: str) -> None:
    refused(f"{name}?pooling=cls", "pooling 'cls'")


def test_the_pooling_of_an_unknown_architecture_is_not_guessed(dinov2_folder: Path) -> None:
    path = dinov2_folder / "config.json"
    config = path.read_text()
    path.write_text(config.replace("dinov2_with_registers", "some_vit"))
    refused(dinov2_folder, "some_vit", "?pooling=")
    path.write_text(config.replace("dinov2_with_registers", "swin"))
    refused(f"{dinov2_folder}?pooling=cls", "no class token")


def test_missing_parts_of_divided_weights_are_named(timm_folder: Path) -> None:
    (timm_folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "../model-2.safetensors"}}
    (timm_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(timm_folder, "2 of 2 parts")


def test_divided_weights_are_joined(timm_folder: Path, patches: np.ndarray) -> None:
    from safetensors.torch import load_file, save_file

    before = load_encoder(timm_folder, device="cpu").encode(patches)
    state = load_file(timm_folder / "model.safetensors")
    (timm_folder / "model.safetensors").unlink()
    parts = {name: f"model-{place % 2}.safetensors" for place, name in enumerate(state)}
    for part in set(parts.values()):
        save_file({name: value for name, value in state.items() if parts[name] == part}, timm_folder / part)
    (timm_folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    assert np.array_equal(load_encoder(timm_folder, device="cpu").encode(patches), before)


def test_a_file_of_weights_alone_is_refused(timm_folder: Path) -> None:
    refused(timm_folder / "model.safetensors", "architecture", "NAME=")


def test_timm_weights_in_the_cache_are_used(put: Put, tmp_path: Path, patches: np.ndarray) -> None:
    import timm
    from safetensors.torch import save_file

    folder = tmp_path / "r"
    folder.mkdir()
    model: Any = timm.create_model("test_resnet", pretrained=False)
    save_file(model.state_dict(), folder / "model.safetensors")
    put("timm/test_resnet.r160_in1k", folder)
    encoder = load_encoder("timm:test_resnet", device="cpu")
    assert encoder.info.name == "timm-test-resnet"
    side = encoder.info.patch_px
    images = np.random.default_rng(2).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    create: Any = timm.data.create_transform  # type: ignore[attr-defined]
    from PIL import Image

    theirs = create(**timm.data.resolve_data_config({}, model=model), is_training=False)  # type: ignore[attr-defined]
    model.reset_classifier(0)
    with torch.inference_mode():
        expected = model.eval()(torch.stack([theirs(Image.fromarray(image)) for image in images]))
    np.testing.assert_allclose(encoder.encode(images), expected, rtol=1e-4, atol=1e-5)


def test_a_plug_in_is_an_encoder_by_its_name(monkeypatch: pytest.MonkeyPatch, patches: np.ndarray) -> None:
    from wsikit.encoders import plugin_models

    def create() -> torch.nn.Module:
        module = Mean()
        module.num_features, module.patch_px, module.mpp = 6, 32, 0.25  # type: ignore[assignment]
        return module

    monkeypatch.setattr(names, "plugin_names", lambda group: ("mean-colour",))
    monkeypatch.setattr(plugin_models, "load_plugin", lambda group, name: create)
    monkeypatch.setattr(plugin_models, "plugin_package", lambda group, name: "colours 1.0")
    encoder = load_encoder("mean-colour", device="cpu")
    assert (encoder.info.width, encoder.info.mpp, encoder.info.source) == (6, 0.25, "colours 1.0")
    assert encoder.info == describe_encoder("mean-colour")
    images = normalised(patches, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    np.testing.assert_allclose(encoder.encode(patches), Mean()(images), atol=1e-5)


def test_features_that_are_not_finite_are_refused(timm_folder: Path, patches: np.ndarray) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(timm_folder / "model.safetensors")
    state["norm.weight"][:] = 3e38  # finite, its products are not
    save_file(state, timm_folder / "model.safetensors")
    with pytest.raises(ModelError, match="not finite for 3 of 3"):
        load_encoder(timm_folder, device="cpu").encode(patches)


@pytest.mark.parametrize("library", ["timm", "transformers", "clip"])
def test_spoilt_weights_of_a_folder_are_refused(
    library: str, request: pytest.FixtureRequest, fault_of_weights: str, refuses_spoilt_weights: Callable[..., None]
) -> None:
    made = {"timm": "timm_folder", "transformers": "dinov2_folder", "clip": "clip_folder"}[library]
    folder = request.getfixturevalue(made)
    if fault_of_weights == "unknown" and library != "timm":
        pytest.skip("files of transformers hold more than the part that is used")
    load = lambda: load_encoder(folder, device="cpu")  # noqa: E731
    refuses_spoilt_weights(folder / "model.safetensors", fault_of_weights, load, place=str(folder))


@pytest.mark.parametrize(
    ("library", "place", "size"),
    [
        ("timm", ("model_args", "embed_dim"), 1_200_000),
        ("timm", ("model_args", "depth"), 20_000),
        ("transformers", ("hidden_size",), 1_200_000),
        ("transformers", ("num_hidden_layers",), 20_000),
        ("clip", ("text_config", "vocab_size"), 1_200_000),
    ],
)
def test_a_network_much_larger_than_its_weights_is_refused_before_it_is_built(
    library: str, place: tuple[str, ...], size: int, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(
        {"timm": "timm_folder", "transformers": "dinov2_folder"}.get(library, "clip_folder")
    )
    path = folder / "config.json"
    path.write_text(json.dumps(changed(json.loads(path.read_text()), place, size)))
    refused(folder, "many more than there are in this file")


def test_an_onnx_file_with_a_weight_that_is_not_finite_gives_no_features(tmp_path: Path, patches: np.ndarray) -> None:
    """Its weights are not looked into; its features are."""
    path = _onnx(tmp_path / "m.onnx", scale=float("nan"))
    with pytest.raises(ModelError, match="not finite for 3 of 3"):
        load_encoder(path, device="cpu").encode(patches)


def test_a_torchscript_file_with_a_weight_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    with torch.no_grad():
        module.bias[1] = float("nan")
    untyped: Any = torch.jit
    untyped.script(module).save(str(tmp_path / "w.pt"))
    with pytest.raises(ModelError, match="w.pt: bias has values that are NaN"):
        TorchScriptModule(tmp_path / "w.pt")


def test_a_folder_of_open_clip_gives_its_features_and_texts(tmp_path: Path, patches: np.ndarray) -> None:
    open_clip = pytest.importorskip("open_clip")
    from safetensors.torch import save_file

    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    model = open_clip.CLIP(16, open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text)).eval()
    folder = tmp_path / "small-open"
    folder.mkdir()
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    config = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text},
              "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "shortest"}}  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    encoder: Any = load_encoder(folder, device="cpu")
    texts = ["neuropil", "blood vessels"]
    with torch.inference_mode():
        expected = model.encode_image(normalised(patches, [0.5] * 3, [0.25] * 3))
        words = model.encode_text(open_clip.tokenize(texts), normalize=True)
    np.testing.assert_allclose(encoder.encode(patches), expected, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_texts(texts), words, atol=1e-5)
    with pytest.raises(RequestError, match="77"):
        encoder.encode_texts(["a " * 90])


def test_a_text_tower_that_open_clip_would_fetch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "open_clip", torch)  # only its import is needed here
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"")
    model = {"embed_dim": 16, "vision_cfg": {"image_size": 32}, "text_cfg": {"hf_model_name": "some/bert"}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    refused(tmp_path, "some/bert", "fetch")
