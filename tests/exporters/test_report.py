"""The report: one file, nothing fetched, nothing run, everything escaped, everything said."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from wsikit.errors import RequestError
from wsikit.exporters.layers import map_layers
from wsikit.exporters.palette import CLASS_COLORS, hex_color, muted
from wsikit.exporters.report import Fact, PatchExample, ReportData, Section, render_report, write_report
from wsikit.exporters.summary_text import MUTED_NOTE
from wsikit.voting import vote

ATTACK = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def data(class_map_of, thumbnail) -> ReportData:
    raster = np.array([[0, 1, 1, 1], [1, 1, 3, -1], [1, 1, -2, 1]])
    patch = np.full((32, 32, 3), 180, dtype=np.uint8)
    return ReportData(
        class_map=class_map_of(raster, notice="Demonstration model, synthetic tissue."),
        thumbnail=thumbnail,
        result=vote(np.tile([0.2, 0.7, 0.1], (30, 1))),
        examples=(
            PatchExample(1, patch, "Crowded round cells; neuropil scant.", (Fact("nuclei", 4321.0, "/mm²"),), 0.31),
            PatchExample(0, patch),
        ),
        tissue_mm2=1.25,
        unreadable_fraction=0.02,
        quality=(("Out of focus", "3 %"),),
        provenance=(Section("Model", (("Fingerprint", "sha256 abc"),)),),
        created="2026-01-15",
    )


def test_the_report_says_what_was_found_how_surely_and_by_what(data):
    text = Page(render_report(data)).text
    for words in (
        "case 1/slide A",
        "Patch vote: Poorly differentiated (PD)",
        "margin 0.50",
        "30 voting patches",
        "Demonstration model, synthetic tissue.",
        "Research use only. Not for diagnosis.",
        "Crowded round cells; neuropil scant.",
        "4,320 /mm²",
        "weight of the text (gate)",
        "0.31",
        "1.25 mm²",
        "2.0 %",
        "Out of focus",
        "vendor property aperio.MPP",
        "sha256 abc",
        "2026-01-15",
    ):
        assert words in text.replace("\N{NO-BREAK SPACE}", " "), words


def test_whether_the_tissue_is_like_that_of_the_training_is_said_also_if_it_is_not_known(data):
    unknown = Page(render_report(data)).text
    assert (
        unknown.count("not known: the model has no detector") == 2
    )  # under the headline, and in the table of the vote
    known = replace(data, result=replace(data.result, ood_fraction=0.25))
    text = Page(render_report(known)).text
    assert "no detector" not in text
    assert "Out-of-distribution tissue, by weight" in text


def test_nothing_is_fetched_and_nothing_runs(data):
    html = render_report(data)
    tags = Page(html).tags
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in tags}
    for _, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert not re.search(r"url\(|@import", html)
    (policy,) = (a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script-src 'none'" in policy


def test_captions_names_facts_and_metadata_are_escaped(data, thumbnail):
    class_map = replace(
        data.class_map,
        slide_id=ATTACK,
        mpp_source=ATTACK,
        notice=ATTACK,
        class_names=(ATTACK,) * 4,
        classes=("UD", ATTACK, "D", "other"),
    )
    attacked = replace(
        data,
        class_map=class_map,
        examples=(PatchExample(1, thumbnail, ATTACK, (Fact(ATTACK, 1.0, ATTACK),)),),
        quality=((ATTACK, ATTACK),),
        provenance=(Section(ATTACK, ((ATTACK, ATTACK),)),),
        created=ATTACK,
    )
    plain, page = Page(render_report(data)), Page(render_report(attacked))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert all((attributes["src"] or "").startswith("data:") for tag, attributes in page.tags if tag == "img")
    assert page.text.count("<script>alert('x')</script>") >= 12
    assert "<script>" not in plain.text


def test_every_picture_is_inside_the_page_and_has_words(data):
    pictures = [attributes for tag, attributes in Page(render_report(data)).tags if tag == "img"]
    assert len(pictures) == 2 + 2 + 5  # slide and map, patches, swatches
    assert all("alt" in attributes for attributes in pictures)
    for attributes in pictures:
        kind, _, payload = attributes["src"].partition(";base64,")
        image = Image.open(io.BytesIO(base64.b64decode(payload)))
        assert image.format.lower() == kind.removeprefix("data:image/")
    slide, subtype_map = pictures[:2]
    assert (slide["width"], slide["height"]) == (subtype_map["width"], subtype_map["height"])
    assert int(slide["width"]) / int(slide["height"]) == pytest.approx(4 / 3, rel=0.01)
    assert "Poorly differentiated (PD)" in subtype_map["alt"]


def test_pins_lie_where_the_shown_patches_are(data):
    styles = [a["style"] for tag, a in Page(render_report(data)).tags if (a.get("class") or "").startswith("pin")]
    first = dict(part.split(": ") for part in styles[0].split("; "))
    assert float(first["left"].rstrip("%")) == pytest.approx(25, abs=0.01)
    assert float(first["top"].rstrip("%")) == pytest.approx(0, abs=0.01)
    assert float(first["width"].rstrip("%")) == pytest.approx(25, abs=0.01)


def test_an_abstention_is_shown_with_its_reason_and_without_a_call(data):
    abstained = replace(data, result=vote(np.tile([0.4, 0.35, 0.25], (30, 1))))
    page = render_report(abstained)
    text = Page(page).text
    assert "No subtype called" in text
    assert MUTED_NOTE in text
    assert MUTED_NOTE not in Page(render_report(data)).text
    bright, dull = ({hex_color(color) for color in of} for of in (CLASS_COLORS[:2], map(muted, CLASS_COLORS[:2])))
    assert not any(color in page for color in bright)
    assert all(color in page for color in dull)
    layer = map_layers(abstained.class_map.as_voted(abstained.result))[0]
    assert {entry.color for entry in layer.legend} & bright == set()
    assert layer.note.startswith(MUTED_NOTE)
    assert "margin 0.050 is below 0.1" in text
    assert "Patch vote" not in text


def test_a_vote_without_voting_patches_is_shown(data):
    text = Page(render_report(replace(data, result=vote(np.full((12, 3), np.nan))))).text
    assert "no patch could vote: all 12 are without prediction" in text


def test_a_slide_without_predictions_or_patches_still_has_a_report(data):
    class_map = replace(
        data.class_map,
        labels=np.full(len(data.class_map.labels), -1),
        probs=None,
        classes=(),
        class_names=(),
        colors=(),
        background=(),
    )
    unpredicted = replace(data, class_map=class_map, result=None, reason="no model was run", examples=())
    text = Page(render_report(unpredicted)).text
    assert "No model was run." in text
    assert "Strongest" not in text
    empty = replace(class_map, coords=class_map.coords[:0], labels=class_map.labels[:0])
    assert "No tissue." in Page(render_report(replace(unpredicted, class_map=empty, reason="no tissue"))).text


def test_a_scale_that_the_file_did_not_state_is_marked(data):
    def marked(page: str) -> bool:
        return bool(re.search(r'class="mark">[^<]*µm/px', page))

    assert not marked(render_report(data))
    assert marked(render_report(replace(data, class_map=replace(data.class_map, mpp_source="option"))))


def test_a_class_that_was_not_found_is_named_as_such(data):
    assert "Differentiating (D) · 0 patches on this slide No patch of this class." in Page(render_report(data)).text


def test_patches_without_prediction_cannot_be_shown_as_examples(data):
    row = int(np.flatnonzero(data.class_map.labels == -1)[0])
    broken = replace(data, examples=(PatchExample(row, np.zeros((8, 8, 3), dtype=np.uint8)),))
    with pytest.raises(RequestError, match="no prediction"):
        render_report(broken)


def test_a_vote_over_other_classes_than_the_maps_is_refused(data):
    with pytest.raises(RequestError, match="2 classes for a map of 3"):
        render_report(replace(data, result=vote(np.tile([0.7, 0.3], (30, 1)))))


def test_the_file_is_whole_and_the_same_each_time(data, tmp_path):
    write_report(tmp_path / "a.html", data)
    write_report(tmp_path / "b.html", data)
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page == (tmp_path / "b.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]
