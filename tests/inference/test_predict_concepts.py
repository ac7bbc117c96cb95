"""`wsikit predict` with a concept head: columns, `--set` and its receipt, report, maps."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import wsikit
from tests.models.test_concept_head import arrays_of, config_of
from wsikit.batch.retry import read_request
from wsikit.batch.run import plan_run
from wsikit.cli.main import main
from wsikit.encoders.protocol import TokenEncoder
from wsikit.encoders.registry import load_encoder
from wsikit.encoders.tokens import TokenVectors
from wsikit.errors import ModelError, RequestError
from wsikit.exporters.quantity import read_quantity
from wsikit.models.concept_criteria import read_criteria
from wsikit.models.concept_head import ConceptHead
from wsikit.models.head_kind import save_head
from wsikit.results.concepts import concept_rows
from wsikit.results.load import StoredResults
from wsikit.results.report import report_data
from wsikit.slides.store import SlideStore

AXES = ("neuropil", "differentiation")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head on two facts: no neuropil speaks for UD, large pale nuclei speak for D."""
    criteria = read_criteria("inpc").only(AXES)
    weight = np.zeros((7, 3))
    weight[0, 0], weight[6, 2] = 6.0, 8.0
    head = ConceptHead(config_of(), arrays_of(criteria) | {"weight": weight, "bias": np.zeros(3)})
    return save_head(head, tmp_path_factory.mktemp("model") / "concepts", card="# toy")


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a small synthetic slide, with measured captions."""
    folder = tmp_path_factory.mktemp("slide")
    wsikit.make_phantom(folder / "slide.tiff", size_px=(896, 896), seed=3, tissue_fraction=0.9)
    with wsikit.tile(folder / "slide.tiff", folder / "slide.zarr") as store:
        wsikit.caption(store)
    return folder / "slide.zarr"


@pytest.fixture
def store(described: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(described, tmp_path / "slide.zarr"))


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_concepts_and_contributions_are_columns_that_add_up(store: Path, model: Path) -> None:
    table = wsikit.predict(store, model=model)
    assert table.attributes("concept_neuropil")["names"] == ["absent", "scant", "moderate", "abundant"]
    assert table.read("concept_neuropil").shape == (len(table), 4)
    assert table.read("contribution_neuropil").shape == (len(table), 3)
    head = wsikit.load_model(model)
    assert isinstance(head, ConceptHead)
    logits = head.base + sum(table.read(f"contribution_{axis}").astype(float) for axis in AXES)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(table.read("probability"), probs, atol=1e-5)


def test_set_changes_the_predictions_and_is_in_their_receipt(store: Path, model: Path) -> None:
    assert call("predict", store, "--model", model) == 0
    with SlideStore(store) as opened:
        plain = opened.patches().read("probability")
        before = opened.patches().receipt("probability")
    arguments = ["--set", "neuropil=absent", "--set", "differentiation=none"]
    assert call("predict", store, "--model", model, *arguments) == 0
    with SlideStore(store) as opened:
        table = opened.patches()
        receipt = table.receipt("probability")
        assert receipt is not None
        assert before is not None
        assert receipt.parameters["set"] == {"neuropil": "absent", "differentiation": "none"}
        assert "set" not in before.parameters
        assert receipt.digest != before.digest
        assert (table.read("probability").argmax(axis=1) == 0).all()
        assert (plain.argmax(axis=1) != 0).any()
        results = StoredResults(opened)
        assert "Concepts set by hand in every patch: neuropil = absent" in results.class_map.notice
        assert dict(concept_rows(results))["Set by hand"] == "neuropil = absent, differentiation = none"
    # without it, the predictions are made again, and are the first ones
    assert call("predict", store, "--model", model) == 0
    with SlideStore(store) as opened:
        np.testing.assert_array_equal(opened.patches().read("probability"), plain)


def test_what_the_model_does_not_have_is_refused_and_nothing_is_changed(
    store: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("predict", store, "--model", model, "--set", "stroma=absent") == 2
    assert "no axis 'stroma'; it has neuropil, differentiation" in capsys.readouterr().err
    assert call("predict", store, "--model", model, "--set", "neuropil=none") == 2
    assert "it has absent, scant, moderate, abundant" in capsys.readouterr().err
    with SlideStore(store) as opened:
        assert "probability" not in opened.patches().columns()
    with pytest.raises(RequestError, match="no axis"):
        wsikit.predict(store, model=model, concepts={"stroma": "absent"})


def test_columns_of_concepts_do_not_survive_another_model(store: Path, model: Path) -> None:
    wsikit.predict(store, model=model)
    table = wsikit.predict(store, model="phantom-mmlnb", device="cpu")
    assert not [name for name in table.columns() if name.startswith(("concept_", "contribution_"))]


def test_the_report_lists_what_each_concept_contributed(store: Path, model: Path, tmp_path: Path) -> None:
    wsikit.predict(store, model=model)
    wsikit.vote(store)
    with SlideStore(store) as opened:
        results = StoredResults(opened)
        data = report_data(results)
        section = next(one for one in data.provenance if one.title == "What the concepts contributed")
        rows = dict(section.rows)
        assert set(rows) == {"Neuropil", "Differentiating neuroblasts"}
        assert results.result is not None
        leading = results.classes[results.result.leading or 0]
        voting = np.isin(results.class_map.labels, results.class_map.voting)
        column = results.class_map.voting[results.result.leading or 0]
        adds = float(results.table.read("contribution_neuropil")[voting, column].mean())
        assert f"adds {adds:+.2f} for {leading}" in rows["Neuropil"]
        # each patch states one option per axis, and what the axis adds to its class
        names = data.words.fact_names
        assert "Neuropil, adds to the class" in names
        facts = data.words.facts
        assert facts is not None
        options = [index for index, name in enumerate(names) if name.startswith("Neuropil: ")]
        assert (np.isfinite(facts[:, options]).sum(axis=1) == 1).all()
        wsikit.export(opened, "report", tmp_path / "report.html")
        assert "What the concepts contributed" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_concepts_and_contributions_are_maps(store: Path, model: Path) -> None:
    wsikit.predict(store, model=model)
    with SlideStore(store) as opened:
        table = opened.patches()
        found = read_quantity(table, "concept_neuropil:absent")
        assert (found.title, found.limits, found.of_model) == ("Concept neuropil: absent", (0.0, 1.0), True)
        np.testing.assert_array_equal(found.values, table.read("concept_neuropil")[:, 0])
        assert read_quantity(table, "contribution_neuropil:UD").unit == "logit"


def test_tokens_are_the_feature_map_of_the_encoder() -> None:
    images = np.random.default_rng(0).integers(0, 255, (2, 224, 224, 3), dtype=np.uint8)
    for name in ("phantom-afloc", "random:resnet18"):
        encoder = load_encoder(name, device="cpu")
        assert isinstance(encoder, TokenEncoder)
        whole = encoder.encode_tokens(images, 1)
        cells = encoder.encode_tokens(images, 7)
        assert cells.shape == (2, 49, whole.shape[2])
        np.testing.assert_allclose(cells.mean(axis=1), whole[:, 0], rtol=1e-3, atol=1e-3)
        flat = TokenVectors(encoder, 7)
        assert flat.info.width == cells.shape[1] * cells.shape[2]
        np.testing.assert_array_equal(flat.encode(images), cells.reshape(2, -1))
        with pytest.raises(ModelError, match="ask for fewer"):
            encoder.encode_tokens(images, 100)
    # a change of one place changes the tokens there most
    other = images.copy()
    other[:, :32, :32] = 0
    local = load_encoder("phantom-afloc", device="cpu")
    assert isinstance(local, TokenEncoder)
    change = np.abs(local.encode_tokens(other, 7) - local.encode_tokens(images, 7))
    assert change.sum(axis=2).argmax(axis=1).tolist() == [0, 0]


def test_a_head_on_tokens_reads_pixels_and_refuses_another_encoder(store: Path, tmp_path: Path) -> None:
    import torch

    from wsikit.models.concept_attention import ConceptAttention
    from wsikit.models.model_folder import EncoderRecord

    criteria = read_criteria("inpc").only(AXES)
    tokens = TokenVectors(load_encoder("phantom-afloc", device="cpu"), 2)
    torch.manual_seed(0)
    module = ConceptAttention(tokens.width, torch.randn(7, 8), criteria.columns, width=8, heads=2)
    arrays = {name: values for name, values in arrays_of(criteria).items() if name != "knots"}
    arrays |= {f"attention.{name}": values.detach().numpy() for name, values in module.state_dict().items()}
    info = tokens.info
    encoder = EncoderRecord(name=info.name, width=info.width, fingerprint=info.fingerprint, given_as="phantom-afloc")
    shape = {"mode": "attend", "scores": "attention", "width": 8, "heads": 2, "anchors": "lexicon", "token_side": 2}
    folder = save_head(ConceptHead(config_of(encoder=encoder, **shape), arrays), tmp_path / "model", card="# toy")
    assert wsikit.describe_model(folder).inputs == ("image",)
    table = wsikit.predict(store, model=folder, device="cpu")
    with SlideStore(store) as opened:
        x, y = (int(value) for value in table.coords[0])
        patch = opened.read_region(x, y, 224, 224, mpp=0.5)
    wanted = module.eval()(torch.from_numpy(tokens.encode(patch[None]).reshape(1, 4, -1))).detach().numpy()
    first = wanted[:, criteria.columns[0]]
    shares = np.exp(first) / np.exp(first).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(table.read("concept_neuropil")[0], shares[0], atol=1e-3)
    other = encoder.model_copy(update={"fingerprint": "0" * 64})
    folder = save_head(ConceptHead(config_of(encoder=other, **shape), arrays), tmp_path / "other", card="# toy")
    with pytest.raises(ModelError, match="other weights"):
        wsikit.predict(store, model=folder, device="cpu")


def test_run_sets_concepts_as_predict_does(store: Path, model: Path, described: Path, tmp_path: Path) -> None:
    slide, out = described.with_name("slide.tiff"), tmp_path / "out"
    arguments = ["--set", "neuropil=absent", "--set", "differentiation=none"]
    assert call("predict", store, "--model", model, *arguments) == 0
    run = ("run", slide, "--model", model, "-o", out, "--device", "cpu")
    assert call(*run, *arguments) == 0
    with SlideStore(store) as one, SlideStore(out / "slides" / "slide.zarr") as two:
        table = two.patches()
        np.testing.assert_array_equal(one.patches().read("probability"), table.read("probability"))
        receipt = table.receipt("probability")
    assert receipt is not None
    assert receipt.parameters["set"] == {"neuropil": "absent", "differentiation": "none"}
    assert "neuropil = absent, differentiation = none" in (out / "results" / "slide" / "report.html").read_text()
    slides, settings = read_request(out)  # as wsikit retry takes them up
    assert settings["concepts"] == {"neuropil": "absent", "differentiation": "none"}
    finished = [
        plan_run(slides, out, **settings | {"concepts": one}).slides[0].finished for one in (None, settings["concepts"])
    ]
    assert finished == [False, True]


def test_run_refuses_what_the_model_does_not_have_before_anything_is_made(
    described: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("run", described.with_name("slide.tiff"), "--model", model, "-o", tmp_path / "out")
    assert call(*run, "--set", "stroma=absent") == 2
    assert "no axis 'stroma'; it has neuropil, differentiation" in capsys.readouterr().err
    assert call(*run, "--vote-method", "attention") == 2
    assert "gives no attention to vote by" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
