"""The report that zooms: our two scripts and no other, all data escaped, all numbers those of the map."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest

from wsikit.exporters.patchdata import PatchWords, pack
from wsikit.exporters.pyramid import EmbeddedPyramid, Frame, encode_jpeg
from wsikit.exporters.report import Fact, PatchExample, ReportData, Section, in_script, render_report
from wsikit.voting import vote

ATTACK = "</script><script>alert('x')</script><img src=x onerror=alert(1)>\u2028"


def unpacked(block: str) -> dict:
    return json.loads(gzip.decompress(base64.b64decode(block)))


def page_data(html: str) -> dict:
    return json.loads(re.search(r'id="slide-data">(.*?)</script>', html, re.DOTALL)[1])


@pytest.fixture
def words(class_map_of) -> PatchWords:
    captions = np.array([f"words of patch {row}" for row in range(11)], dtype=object)
    captions[3] = ""
    facts = np.column_stack([np.linspace(1000, 9000, 11), np.full(11, np.nan)])
    gate = np.linspace(0, 1, 11)
    return PatchWords(captions, captions == "words of patch 4", ("nuclei", "lost"), ("/mm²", "%"), facts, gate)


@pytest.fixture
def data(class_map_of, thumbnail, words) -> ReportData:
    class_map = class_map_of(np.array([[0, 1, 1, 1], [1, 1, 3, -1], [1, 1, -2, 1]]))
    frame = Frame(class_map.grid.slide_px, class_map.grid.slide_mpp)
    tile = encode_jpeg(np.full((168, 224, 3), 200, dtype=np.uint8))
    return ReportData(
        class_map=class_map,
        thumbnail=thumbnail,
        result=vote(np.tile([0.2, 0.7, 0.1], (30, 1))),
        examples=(PatchExample(1, np.full((32, 32, 3), 180, dtype=np.uint8), "Crowded cells.", (), 0.3),),
        words=words,
        pyramid=EmbeddedPyramid(frame, {(8, 0, 0): tile}, 8, 8),
    )


def test_only_our_scripts_may_run_and_nothing_is_fetched(data):
    html = render_report(data)
    running = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1].replace("&#39;", "'")
    hashes = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in running}
    assert len(running) == 3
    assert hashes == set(re.findall(r"'sha256-([^']+)'", policy))
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1]
    assert "sourceMappingURL" not in html
    markup = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]*"', markup)


def test_no_text_of_a_slide_ends_or_opens_a_script(data, words):
    attacked = replace(
        data,
        class_map=replace(data.class_map, slide_id=ATTACK, notice=ATTACK, class_names=(ATTACK,) * 4),
        words=replace(words, captions=np.array([ATTACK] * 11, dtype=object), fact_names=(ATTACK, "lost")),
        examples=(PatchExample(1, np.zeros((8, 8, 3), dtype=np.uint8), ATTACK, (Fact(ATTACK, 1.0, ATTACK),)),),
        provenance=(Section(ATTACK, ((ATTACK, ATTACK),)),),
    )
    plain, hostile = render_report(data), render_report(attacked)
    for opening in ("<script", "</script", "<img src=x"):
        assert hostile.count(opening) == plain.count(opening)
    assert page_data(hostile)["classes"][0]["title"].startswith("</script><script>")
    assert unpacked(page_data(hostile)["patches"])["captions"] == [
        ATTACK,
        ATTACK + " [Written about a patch that looks like this one.]",
    ]


def test_json_in_a_script_reads_back_as_it_was():
    value = {"a": ATTACK, "b": [1.5, None], "c": "<!-- & -->"}
    text = str(in_script(value))
    assert json.loads(text) == value
    assert not set("<>&\u2028") & set(text)


def test_the_page_knows_of_each_patch_what_the_table_says(data, words):
    known = unpacked(page_data(render_report(data))["patches"])
    class_map = data.class_map
    assert np.array_equal(np.column_stack([known["x"], known["y"]]), class_map.coords)
    assert known["label"] == class_map.labels.tolist()
    unpredicted = class_map.labels.tolist().index(-1)
    assert known["probs"][0][unpredicted] is None
    assert known["probs"][0][0] == 0.7
    assert known["gate"] == [round(value, 3) for value in words.gate.tolist()]
    assert known["captions"][known["caption"][5]] == "words of patch 5"
    assert known["caption"][3] == -1
    assert "looks like this one" in known["captions"][known["caption"][4]]
    assert known["facts"][0][10] == 9000
    assert known["facts"][1] == [None] * 11


def test_data_that_do_not_fit_are_left_out_except_for_the_shown_patches(data, words):
    rng = np.random.default_rng(0)
    noisy = replace(words, facts=rng.normal(size=(11, 40)), fact_names=("f",) * 40, fact_units=("",) * 40)
    full = pack(data.class_map, noisy, [1])
    less = pack(data.class_map, noisy, [1], max_bytes=len(full.block) * 3 // 4 - 50)
    assert full.left_out == ()
    assert less.left_out == ("measured facts",)
    assert unpacked(less.block)["facts"][0][0] is None
    assert unpacked(less.block)["facts"][0][1] is not None
    none = pack(data.class_map, noisy, [1], max_bytes=1)
    assert unpacked(none.block)["row"] == [1]
    assert "Left out to limit the page" in render_report(replace(data, patch_bytes=1))


def test_the_same_slide_gives_the_same_page(data):
    assert render_report(data) == render_report(data)


def test_the_vote_is_shown_with_its_interval_its_areas_and_a_second_subtype(data):
    from wsikit.voting.result import Areas, Interval, SecondSubtype

    low, high = np.array([0.1, 0.55, 0.0]), np.array([0.3, 0.82, 0.2])
    result = replace(
        data.result,
        interval=Interval(0.95, low, high, (0.31, 0.64), 0.987, 42, 500.0),
        areas=Areas(np.array([0.5, 1.5, 0.0]), 0.25, 0.0),
        second=SecondSubtype(0, 0.5, 0.25, 0.71, (10, 20, 300, 400)),
        ood_fraction=0.125,
    )
    html = render_report(replace(data, result=result))
    text = re.sub(r"<[^>]+>|\s+", " ", html).replace("\N{NO-BREAK SPACE}", " ")
    for words in ("0.55 – 0.82", "0.310 – 0.640", "98.7 %", "42 blocks of 500 µm", "0.50 mm²", "12.5 %"):
        assert words in text, words
    assert re.search(r"Second subtype.*Undifferentiated \(UD\).*0\.71", text)
    assert page_data(html)["second"] == [10, 20, 300, 400]


def test_patches_of_the_leading_class_come_first(data):
    html = render_report(replace(data, examples=(PatchExample(0, np.zeros((8, 8, 3), np.uint8)), *data.examples)))
    assert html.index("For: Poorly differentiated (PD)") < html.index("Against: Undifferentiated (UD)")


def test_the_viewer_engine_is_the_release_that_its_licence_file_speaks_of():
    folder = resources.files("wsikit.exporters") / "vendor" / "openseadragon"
    script = (folder / "openseadragon.min.js").read_bytes()
    assert hashlib.sha256(script).hexdigest() == "14d587cd3ee7c4861f1a41077ce642029364a21029956ba635bd8fb1202cf9ad"
    assert b"openseadragon 6.1.1" in script[:200]
    assert b"</script" not in script
    assert "OpenSeadragon contributors" in (folder / "LICENSE.txt").read_text()
