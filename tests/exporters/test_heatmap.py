"""The map's picture at chosen pixels, its shape and scale on odd slides, and what it says."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from wsikit.exporters.heatmap import DPI, draw_map, write_map_png
from wsikit.exporters.overlay import class_tags, paint_map, picture_size
from wsikit.exporters.page import Pasted, ellipsis, text_width
from wsikit.exporters.summary_text import MUTED_NOTE, REGIONS_NOTE
from wsikit.exporters.units import nice_length_um
from wsikit.voting import vote


def texts(figure):
    return [text.get_text() for text in figure.texts]


def picture_box(figure):
    """Position of the slide's picture on the page, in shares of it."""
    return next(artist for artist in figure.artists if isinstance(artist, Pasted)).box


def chroma(pixels):
    """How far from grey, (…) float."""
    return np.ptp(pixels.astype(float), axis=-1)


def test_each_patch_has_its_class_colour_up_to_its_very_border(class_map_of, thumbnail):
    """One output pixel per 4 level-0 px: patch borders fall on pixel borders, 56 px apart."""
    class_map = class_map_of(np.array([[0, 2], [-2, 3]]))
    picture = paint_map(class_map, thumbnail, (112, 112)).astype(int)
    orange, blue = picture[28, 28], picture[28, 84]
    assert orange[0] > orange[1] > orange[2]
    assert blue[2] > blue[1] > blue[0]
    # inside the dark outlines of one pixel, each cell is even up to its border
    assert (picture[1:55, 1:55] == orange).all()
    assert (picture[1:55, 57:111] == blue).all()
    assert (chroma(picture[56:, :56]) == 0).all()  # no patch: the grey slide


def test_background_is_faint_and_grey(class_map_of, thumbnail):
    class_map = class_map_of(np.array([[3, -2]]))
    picture = paint_map(class_map, thumbnail, (112, 56))
    assert (chroma(picture) == 0).all()
    assert 0 < int(picture[28, 84, 0]) - int(picture[28, 28, 0]) < 25


def test_a_surer_patch_is_painted_stronger(class_map_of, thumbnail):
    class_map = class_map_of(np.array([[0, 0]]), certainty=np.array([[0.95, 0.35]]))
    sure, unsure = (chroma(paint_map(class_map, thumbnail, (112, 56))[28, col]) for col in (28, 84))
    assert sure > 1.5 * unsure > 0


def test_unpredicted_patches_are_hatched_and_not_of_any_class(class_map_of, thumbnail):
    picture = paint_map(class_map_of(np.array([[-1, 0]])), thumbnail, (112, 56))
    assert chroma(picture[2:54, 2:54]).max() == 0
    assert len(np.unique(picture[10:46, 10:46, 0])) > 1


def test_cells_too_small_for_an_outline_keep_their_colour(class_map_of, thumbnail):
    raster = np.indices((60, 60)).sum(axis=0) % 2
    picture = paint_map(class_map_of(raster), thumbnail, (120, 120))
    assert picture.max(axis=-1).min() > 150


def test_each_class_is_tagged_inside_its_largest_region(class_map_of):
    raster = np.full((9, 12), -2)
    raster[0, 0] = 0
    raster[3:8, 3:8] = 0
    raster[0:2, 10] = 1
    tags = {tag.index: tag for tag in class_tags(class_map_of(raster))}
    assert set(tags) == {0, 1}
    assert (tags[0].x, tags[0].y) == (5.5 * 224, 5.5 * 224)
    assert tags[0].room == pytest.approx(2.5 * 224)
    assert tags[1].x == 10.5 * 224


@pytest.mark.parametrize(
    ("shape", "mpp"), [((2, 90), (0.5, 0.5)), ((90, 2), (0.5, 0.5)), ((1, 1), (0.5, 0.5)), ((20, 20), (0.5, 0.25))]
)
def test_any_slide_keeps_its_shape_and_its_scale_bar_is_as_long_as_it_says(class_map_of, thumbnail, shape, mpp):
    class_map = class_map_of(np.zeros(shape, dtype=int), mpp=mpp)
    figure = draw_map(class_map, thumbnail, reason="no vote")
    page_px = figure.get_size_inches() * DPI
    box = picture_box(figure)
    width_px, height_px = box.width * page_px[0], box.height * page_px[1]
    width_um, height_um = (n * m for n, m in zip(class_map.grid.slide_px, class_map.grid.slide_mpp))
    assert width_px / height_px == pytest.approx(width_um / height_um, rel=0.04)
    assert max(width_px, height_px) == pytest.approx(1200, abs=1)
    drawn = [artist for artist in figure.artists + figure.patches if not isinstance(artist, Pasted)]
    bar = next(artist for artist in drawn if artist.get_facecolor()[:3] == (26 / 255,) * 3)
    bar_um = bar.get_width() * page_px[0] * width_um / width_px
    (label,) = (text for text in texts(figure) if text.split()[-1] in ("µm", "mm") and len(text.split()) == 2)
    said_um = float(label.split()[0]) * (1000 if label.endswith("mm") else 1)
    assert bar_um == pytest.approx(said_um, rel=0.01)
    assert 1 <= said_um / 10 ** np.floor(np.log10(said_um) + 1e-9) <= 5


def test_no_text_runs_off_the_page(class_map_of, thumbnail):
    name = "a very long name of a slide " * 6 + "_" * 300
    class_map = class_map_of(np.zeros((60, 3), dtype=int), slide_id=name, notice="demonstration model " * 20)
    figure = draw_map(class_map, thumbnail, vote(np.tile([0.5, 0.3, 0.2], (30, 1))))
    renderer = figure.canvas.get_renderer()
    for text in figure.texts:
        assert text.get_window_extent(renderer).x1 <= figure.bbox.x1


def test_the_map_states_slide_vote_uncertainty_and_use(class_map_of, thumbnail):
    class_map = class_map_of(np.zeros((6, 6), dtype=int), notice="demonstration model, synthetic tissue")
    said = " ".join(texts(draw_map(class_map, thumbnail, vote(np.tile([0.2, 0.7, 0.1], (30, 1))))))
    said = said.replace("\N{NO-BREAK SPACE}", " ")
    for words in (
        "case 1/slide A",
        "Patch vote: Poorly differentiated (PD)",
        "PD 0.70, UD 0.20, D 0.10",
        "margin 0.50",
        "30 voting patches",
        "demonstration model, synthetic tissue",
        "Research use only. Not for diagnosis.",
        "aperio.MPP",
        "Undifferentiated (UD)",
        "0.452",  # mm²: 36 patches of 112 µm
        "100 %",
    ):
        assert words in said


def test_a_map_whose_vote_abstained_has_muted_colours_of_the_same_hues_and_says_so(class_map_of, thumbnail):
    class_map = class_map_of(np.array([[0, 2], [1, 3]]))
    called, abstained = (vote(np.tile(probs, (30, 1))) for probs in ([0.2, 0.7, 0.1], [0.4, 0.35, 0.25]))
    assert class_map.as_voted(called) is class_map is class_map.as_voted(None)
    bright, dull = (paint_map(class_map.as_voted(of), thumbnail, (112, 112)) for of in (called, abstained))
    colours = []
    for row, col in ((28, 28), (28, 84), (84, 28)):
        strong, weak = bright[row, col].astype(float), dull[row, col].astype(float)
        assert chroma(weak) < 0.6 * chroma(strong)
        assert list(np.argsort(weak)) == list(np.argsort(strong))
        assert abs((weak - strong) @ (0.299, 0.587, 0.114)) < 3
        colours.append(weak)
    assert min(np.abs(colours[a] - colours[b]).max() for a, b in ((0, 1), (0, 2), (1, 2))) > 40
    drawn = {}
    for result in (called, abstained):
        figure = draw_map(class_map, thumbnail, result)
        assert (MUTED_NOTE in texts(figure)) is (result is abstained)
        figure.canvas.draw()
        drawn[result is abstained] = chroma(np.asarray(figure.canvas.buffer_rgba())[..., :3]).max()
    assert drawn[True] < 0.6 * drawn[False]


def test_a_map_of_regions_says_that_there_are_no_other_patches(class_map_of, thumbnail):
    class_map = class_map_of(np.zeros((6, 6), dtype=int))
    for regions_only in (False, True):
        said = texts(draw_map(replace(class_map, regions_only=regions_only), thumbnail))
        assert (REGIONS_NOTE in said) is regions_only


def test_an_abstention_is_said_with_its_reason_and_no_subtype_is_called(class_map_of, thumbnail):
    result = vote(np.tile([0.4, 0.35, 0.25], (30, 1)))
    said = texts(draw_map(class_map_of(np.zeros((6, 6), dtype=int)), thumbnail, result))
    assert "No subtype called" in said
    assert any("Abstained: margin 0.050 is below 0.1" in text for text in said)
    assert not any("Patch vote" in text for text in said)


def test_a_map_without_predictions_shows_the_tissue_and_says_why(class_map_of, thumbnail):
    class_map = replace(
        class_map_of(np.full((6, 6), -1)), classes=(), class_names=(), colors=(), background=(), probs=None
    )
    said = texts(draw_map(class_map, thumbnail, reason="no model was run"))
    assert "No model was run." in said
    assert "Tissue patches" in said
    picture = paint_map(class_map, thumbnail, (60, 60))
    assert len(np.unique(picture[5:55, 5:55].reshape(-1, 3), axis=0)) == 1  # one colour, no hatching


def test_a_slide_without_tissue_is_drawn_too(class_map_of, thumbnail, tmp_path):
    class_map = class_map_of(np.full((6, 6), -2), slide_px=(1344, 1344))
    write_map_png(tmp_path / "map.png", class_map, thumbnail, reason="no tissue was found")
    assert Image.open(tmp_path / "map.png").size[0] > 1200


def test_a_name_with_dollars_newlines_or_unknown_letters_is_drawn_plainly(class_map_of, thumbnail, tmp_path, recwarn):
    class_map = class_map_of(np.zeros((2, 2), dtype=int), slide_id="$x_1$\nname \U0001f52c")
    figure = draw_map(class_map, thumbnail, reason="none")
    write_map_png(tmp_path / "map.png", class_map, thumbnail, reason="none")
    assert texts(figure)[0] == "$x_1$ name □"
    assert not any(text.get_parse_math() for text in figure.texts)
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_the_same_map_gives_the_same_bytes(small_map, thumbnail, tmp_path):
    for name in ("one.png", "two.png"):
        write_map_png(tmp_path / name, small_map, thumbnail, reason="none")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_drawing_leaves_pyplot_and_its_global_state_alone():
    code = "import sys, wsikit.exporters.heatmap; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_shortened_names_keep_both_ends_and_fit():
    short = ellipsis("beginning" + "-" * 200 + "end", 2.0, 10)
    assert short.startswith("beg")
    assert short.endswith("end")
    assert text_width(short, 10) <= 2.0


@pytest.mark.parametrize("field_um", [0.7, 12.0, 999.0, 4000.0, 80_000.0])
def test_scale_bars_are_round_and_fit_their_share(field_um):
    length = nice_length_um(field_um, share=0.25)
    assert 0.1 * field_um <= length <= 0.25 * field_um * (1 + 1e-6)
    leading = length / 10 ** np.floor(np.log10(length) + 1e-9)
    assert round(leading, 6) in (1, 2, 5)


@pytest.mark.parametrize("slide_px", [(1, 100_000), (100_000, 1), (3, 3)])
def test_no_picture_is_less_than_a_pixel_wide(class_map_of, slide_px):
    grid = class_map_of(np.full((1, 1), -2), slide_px=slide_px).grid
    assert min(picture_size(grid, 1200, 1200)) >= 1
