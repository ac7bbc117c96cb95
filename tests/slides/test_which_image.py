"""Which image of a TIFF file is the slide: levels, thumbnails, labels, scenes, and OME-XML of other files."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw

from wsikit.errors import RequestError, UnsupportedSlideError
from wsikit.slides import open_slide

SIZE = (640, 480)
RGB = {"photometric": "rgb", "metadata": None}
TILED = {"tile": (64, 64), "compression": "jpeg", "compressionargs": {"level": 92}, **RGB}


@pytest.fixture(scope="module")
def section(texture):
    """section(seed, size): pixels of a section, coarse enough that its reductions keep a structure."""

    def make(seed: int = 1, size: tuple[int, int] = SIZE) -> np.ndarray:
        small = texture(max(8, size[0] // 16), max(8, size[1] // 16), seed)
        large = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)).astype(int)
        return (large + (texture(*size, seed + 100).astype(int) - 128) // 12).clip(0, 255).astype(np.uint8)

    return make


def reduced(pixels: np.ndarray, by: float, kernel: Image.Resampling = Image.Resampling.BOX) -> np.ndarray:
    size = round(pixels.shape[1] / by), round(pixels.shape[0] / by)
    return np.asarray(Image.fromarray(pixels).resize(size, kernel))


def label(size: tuple[int, int], paper: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """A slide label: paper with writing."""
    picture = Image.new("RGB", size, paper)
    pen = ImageDraw.Draw(picture)
    for row in range(4):
        for column in range(5):
            x, y = size[0] * (column + 1) // 7, size[1] * (row + 1) // 6
            pen.rectangle((x, y, x + size[0] // 9, y + size[1] // (9 if (row + column) % 2 else 20)), fill=(20, 20, 30))
    return np.asarray(picture)


def write(path: Path, *images: tuple[np.ndarray, dict]) -> Path:
    with tifffile.TiffWriter(path) as writer:
        for pixels, options in images:
            writer.write(pixels, **options)
    return path


def assert_is(slide, right: np.ndarray, levels: int | None = None, tolerance: float = 5.0) -> None:
    """Every level is `right`, reduced."""
    assert slide.dimensions == right.shape[1::-1]
    for level, size in enumerate(slide.level_dimensions):
        found = slide.read_region(0, 0, *size, level=level).astype(int)
        expected = np.asarray(Image.fromarray(right).resize(size, Image.Resampling.BOX)).astype(int)
        assert np.abs(found - expected).mean() < tolerance, f"level {level}"
    if levels is not None:
        assert len(slide.level_dimensions) == levels


@pytest.mark.parametrize("order", [(4, 2, 1), (1, 4, 2), (2, 1, 4)])
def test_levels_in_any_order(tmp_path, section, order):
    right = section()
    path = write(tmp_path / "a.tif", *((reduced(right, by), TILED) for by in order))
    with open_slide(path) as slide:
        assert_is(slide, right, levels=3)


@pytest.mark.parametrize("flag", [0, 1])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_label_in_tiles_is_no_level_wherever_it_stands(tmp_path, section, flag, place):
    right = section()
    images = [(right, TILED), (reduced(right, 2), TILED)]
    images.insert(place, (label((160, 120)), {**TILED, "subfiletype": flag}))
    with open_slide(write(tmp_path / "a.tif", *images)) as slide:
        assert_is(slide, right, levels=2)
        assert slide.info.associated == (f"image {place + 1}",)
        assert "may show its label" in " ".join(slide.info.notes)
        assert slide.associated(f"image {place + 1}").shape == (120, 160, 3)


@pytest.mark.parametrize("place", ["sub-directory", "resolution of a level"])
def test_a_label_is_no_level_even_where_the_file_says_so(tmp_path, section, place):
    right, reduction = section(), {"subfiletype": 1, **TILED}
    scales = [{"resolution": (20_000 / by,) * 2, "resolutionunit": "CENTIMETER"} for by in (1, 2, 4)]
    for picture in (label((160, 120)), label((160, 120), (255, 200, 60)), np.full((120, 160, 3), 250, np.uint8)):
        below = place == "sub-directory"
        images = [
            (right, {**TILED, "subifds": 2 if below else 0, **scales[0]}),
            (reduced(right, 2), {**reduction, **({} if below else scales[1])}),
            (picture, {**reduction, **({} if below else scales[2])}),
        ]
        with open_slide(write(tmp_path / "a.tif", *images)) as slide:
            assert_is(slide, right, levels=2)


def test_a_thumbnail_in_front_and_in_strips_is_no_slide(tmp_path, section):
    right = section()
    thumbnail = (reduced(right, 4), {"subfiletype": 1, **RGB})
    with open_slide(write(tmp_path / "a.tif", thumbnail, (right, TILED), (reduced(right, 2), TILED))) as slide:
        assert_is(slide, right, levels=2)
        assert slide.info.associated == ("thumbnail",)
        assert np.abs(slide.associated("thumbnail").astype(int) - reduced(right, 4)).max() == 0


def test_a_label_in_strips_with_the_aspect_of_the_slide_is_no_thumbnail(tmp_path, section):
    right = section()
    with open_slide(write(tmp_path / "a.tif", (right, TILED), (label((160, 120)), RGB))) as slide:
        assert slide.info.associated == ("image 2",)


def test_a_reduced_image_in_tiles_before_a_slide_in_strips_is_no_slide(tmp_path, section):
    right = section()
    path = write(tmp_path / "a.tif", (reduced(right, 4), {**TILED, "subfiletype": 1}), (right, RGB))
    with open_slide(path) as slide:
        assert_is(slide, right, levels=1)


def test_a_brighter_thumbnail_in_tiles_is_no_level(tmp_path, section):
    right = section()
    brighter = (reduced(right, 4) * 0.8 + 51).astype(np.uint8)
    with open_slide(write(tmp_path / "a.tif", (right, TILED), (brighter, TILED))) as slide:
        assert_is(slide, right, levels=1)
        assert slide.info.associated == ("thumbnail",)


@pytest.mark.parametrize("words", ["Label-free imaging, macro", "macro", "A comment on the label"])
def test_words_in_a_description_do_not_make_the_slide_a_label(tmp_path, section, words):
    right = section()
    images = [(right, {**TILED, "description": words}), (reduced(right, 2), TILED)]
    with open_slide(write(tmp_path / "a.tif", *images)) as slide:
        assert_is(slide, right, levels=2)


@pytest.mark.parametrize("words", ["Label", "label image", "Slide Label", "Label 160x120", "Barcode"])
@pytest.mark.parametrize("tag", [270, 285])
def test_a_picture_that_is_named_a_label_is_one(tmp_path, section, words, tag):
    right = section()
    options = {"description": words} if tag == 270 else {"extratags": [(tag, 2, None, words, True)]}
    with open_slide(write(tmp_path / "a.tif", (label((160, 120)), {**TILED, **options}), (right, TILED))) as slide:
        assert_is(slide, right, levels=1)
        assert slide.info.associated == ("label",)


@pytest.mark.parametrize("words", ["label 160x120", "macro 160x120"])
def test_an_aperio_label_in_tiles_is_named_and_no_level(tmp_path, section, words):
    right = section()
    aperio = "Aperio Image Library v12.0.0\r\n{}|AppMag = 20|MPP = 0.5|Title = label macro"
    path = write(
        tmp_path / "a.svs",
        (right, {**TILED, "description": aperio.format("640x480 (64x64) JPEG/RGB Q=70")}),
        (reduced(right, 4), {**RGB, "description": aperio.format("640x480 -> 160x120 - ")}),
        (reduced(right, 2), {**TILED, "description": aperio.format("640x480 (64x64) -> 320x240 JPEG/RGB Q=70")}),
        (label((160, 120)), {**TILED, "description": "Aperio Image Library v12.0.0\r\n" + words}),
    )
    with open_slide(path, "tiff") as slide:
        assert_is(slide, right, levels=2)
        assert slide.info.associated == tuple(sorted((words.split()[0], "thumbnail")))


def test_an_aperio_thumbnail_that_shows_the_label_is_not_called_a_thumbnail(tmp_path, section):
    right = section()
    first = {**TILED, "description": "Aperio Image Library v12.0.0\r\n640x480 (64x64) JPEG/RGB Q=70|MPP = 0.5"}
    second = {**RGB, "description": "Aperio Image Library v12.0.0\r\n640x480 -> 160x120 - |MPP = 0.5"}
    with open_slide(write(tmp_path / "a.svs", (right, first), (label((160, 120)), second)), "tiff") as slide:
        assert slide.info.associated == ("image 2",)


@pytest.mark.parametrize("kind", ["Label", "Overview", "Thumbnail"])
def test_pictures_that_say_what_they_are_in_the_perkinelmer_way(tmp_path, section, kind):
    right = section()
    xml = "<PerkinElmer-QPI-ImageDescription><ImageType>{}</ImageType></PerkinElmer-QPI-ImageDescription>"
    other = reduced(right, 4) if kind == "Thumbnail" else label((200, 300))
    path = write(
        tmp_path / "a.qptiff",
        (right, {**TILED, "description": xml.format("FullResolution"), "software": "PerkinElmer-QPI"}),
        (other, {**RGB, "description": xml.format(kind)}),
        (reduced(right, 2), {**TILED, "description": xml.format("ReducedResolution"), "subfiletype": 1}),
    )
    with open_slide(path) as slide:
        assert_is(slide, right, levels=2)
        assert slide.info.associated == ({"Label": "label", "Overview": "macro", "Thumbnail": "thumbnail"}[kind],)


def test_a_macro_as_last_tiled_image_is_no_level(tmp_path, section):
    right = section()
    macro = np.full((120, 160, 3), 235, np.uint8)
    macro[30:90, 70:130] = reduced(right, 8)[:60, :60]
    macro[:, :50] = label((50, 120))
    path = write(tmp_path / "a.tif", (right, TILED), (reduced(right, 2), TILED), (macro, TILED))
    with open_slide(path) as slide:
        assert_is(slide, right, levels=2)


@pytest.mark.parametrize(
    "kernel", [Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS, Image.Resampling.BOX]
)
@pytest.mark.parametrize("quality", [50, 95])
def test_levels_of_every_reduction_kernel_and_quality_are_levels(tmp_path, section, kernel, quality):
    right = section()
    options = {**TILED, "compressionargs": {"level": quality}}
    images = [(reduced(right, by, kernel), options) for by in (1, 2, 4, 16)]
    with open_slide(write(tmp_path / "a.tif", *images)) as slide:
        assert len(slide.level_dimensions) == 4


def test_levels_that_are_shifted_by_a_pixel_are_levels(tmp_path, section):
    right = section()
    level = np.roll(reduced(right, 4), (1, 1), (0, 1))
    with open_slide(write(tmp_path / "a.tif", (right, TILED), (level, TILED))) as slide:
        assert len(slide.level_dimensions) == 2


@pytest.mark.parametrize("glass", [255, 243])
def test_a_blank_slide_keeps_its_levels_but_not_its_label(tmp_path, glass):
    blank = np.full((480, 640, 3), glass, np.uint8)
    images = [(blank, TILED), (reduced(blank, 2), TILED), (label((160, 120)), TILED)]
    with open_slide(write(tmp_path / "a.tif", *images)) as slide:
        assert slide.level_dimensions == ((640, 480), (320, 240))


def test_a_grey_16_bit_pyramid_keeps_its_levels(tmp_path, section):
    grey = section()[..., 1].astype(np.uint16) * 16
    half = grey.reshape(240, 2, 320, 2).mean((1, 3)).astype(np.uint16)
    other = section(7, (160, 120))[..., 1].astype(np.uint16) * 16
    options = {"tile": (64, 64), "photometric": "minisblack", "metadata": None, "compression": "deflate"}
    with open_slide(write(tmp_path / "a.tif", (grey, options), (half, options), (other, options))) as slide:
        assert slide.level_dimensions == ((640, 480), (320, 240))


def test_damaged_tiles_do_not_decide_what_a_level_is(tmp_path, section, overwrite_tile):
    right = section()
    path = write(tmp_path / "a.tif", (right, TILED), (reduced(right, 2), TILED))
    with tifffile.TiffFile(path) as tiff:
        tiles = len(tiff.pages[1].dataoffsets)
    for number in range(tiles - 3):
        overwrite_tile(path, number, lambda old: bytes(len(old)), page=1)
    with open_slide(path) as slide:
        assert len(slide.level_dimensions) == 2


@pytest.mark.parametrize("flag", [0, 1])
def test_sub_directories_of_a_plain_tiff_are_levels(tmp_path, section, flag):
    right = section()
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(label((200, 200)), **RGB)
        writer.write(right, subifds=2, **TILED)
        for by in (2, 4):
            writer.write(reduced(right, by), subfiletype=flag, **TILED)
    with open_slide(path) as slide:
        assert_is(slide, right, levels=3)


# --- scenes


@pytest.mark.parametrize("options", [TILED, RGB])
def test_pages_of_equal_size_are_scenes_and_the_first_is_read(tmp_path, section, options):
    pages = [section(seed) for seed in (1, 2, 3)]
    path = write(tmp_path / "a.tif", *((page, options) for page in pages))
    with open_slide(path) as slide:
        assert_is(slide, pages[0])
        assert [(scene.number, scene.dimensions) for scene in slide.info.scenes] == [(i, SIZE) for i in range(3)]
        assert slide.info.scene == 0
        assert "3 sections, focal planes or channels" in " ".join(slide.info.notes)
    for scene in (2, "2"):
        with open_slide(path, scene=scene) as slide, pickle.loads(pickle.dumps(slide)) as again:
            assert_is(slide, pages[2])
            assert_is(again, pages[2])
            assert (again.info.scene, again.given_scene) == (2, scene)
    with pytest.raises(RequestError, match="no scene 3: the file has scenes 0, 1, 2"):
        open_slide(path, scene=3)


@pytest.mark.parametrize("by_section", [True, False])
def test_each_scene_has_its_own_levels(tmp_path, section, by_section):
    sections = [section(seed) for seed in (1, 2)]
    order = [(s, by) for s in (0, 1) for by in (1, 2, 4)] if by_section else [(s, b) for b in (1, 2, 4) for s in (0, 1)]
    path = write(tmp_path / "a.tif", *((reduced(sections[s], by), TILED) for s, by in order))
    for scene in (0, 1):
        with open_slide(path, scene=scene) as slide:
            assert_is(slide, sections[scene], levels=3)
            assert slide.info.associated == ()


def test_sections_within_equal_borders_keep_their_own_levels(tmp_path, section):
    """Two sections mounted alike share their outline, and so do their levels; the levels are stored the other way."""
    sections = [section(seed, (576, 416)) for seed in (1, 2)]
    sections = [np.pad(pixels, ((32, 32), (32, 32), (0, 0)), constant_values=243) for pixels in sections]
    order = [(0, 1), (1, 1), (1, 2), (0, 2), (1, 8), (0, 8)]
    path = write(tmp_path / "a.tif", *((reduced(sections[number], by), TILED) for number, by in order))
    for scene in (0, 1):
        with open_slide(path, scene=scene) as slide:
            assert_is(slide, sections[scene], levels=3)


def test_a_stack_of_many_sections_is_opened_with_few_comparisons(tmp_path, section, monkeypatch):
    from wsikit.slides.formats.tiff import pyramid

    pages = [section(seed, (128, 96)) for seed in range(18)]
    images = [(reduced(page, by), {**TILED, "tile": (32, 32)}) for by in (1, 2) for page in pages]
    path = write(tmp_path / "a.tif", *images)
    compared = []
    checked = pyramid.is_reduced_copy
    monkeypatch.setattr(pyramid, "is_reduced_copy", lambda *pair: compared.append(pair) or checked(*pair))
    for scene in (0, 17):
        with open_slide(path, scene=scene) as slide:
            assert len(slide.info.scenes) == 18
            assert_is(slide, pages[scene], levels=2)
    assert len(compared) == 4  # each file is looked at to choose the reader, and to read it


def test_of_scenes_of_several_sizes_the_largest_is_read(tmp_path, section):
    small, large = section(1, (512, 384)), section(2)
    path = write(tmp_path / "a.tif", (small, TILED), (large, TILED), (reduced(small, 2), TILED))
    with open_slide(path) as slide:
        assert_is(slide, large, levels=1)
        assert slide.info.scene == 1
        assert "the largest" in " ".join(slide.info.notes)
    with open_slide(path, scene=0) as slide:
        assert_is(slide, small, levels=2)


def test_a_file_of_one_scene_has_scene_0_only(pyramid, picture):
    for path in (pyramid, picture):
        open_slide(path, scene=0).close()
        with pytest.raises(RequestError, match="no scene 1: the file has one scene, 0"):
            open_slide(path, scene=1)


# --- OME-TIFF


def ome(images: list[dict], uuid: str | None = None) -> str:
    """OME-XML; an image has size, and optionally name, ifd, file, uuid, mpp, channels."""
    root = f' UUID="urn:uuid:{uuid}"' if uuid else ""
    text = f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{root}>'
    for number, image in enumerate(images):
        width, height = image["size"]
        mpp, ifd = image.get("mpp", 0.5), image.get("ifd", number)
        planes = image.get("channels", 1)
        samples = 1 if planes > 1 else 3
        reference = f'<UUID FileName="{image["file"]}">urn:uuid:{image["uuid"]}</UUID>' if "file" in image else ""
        channels = f'<Channel ID="Channel:{number}:0" SamplesPerPixel="{samples}"/>' * planes
        text += (
            f'<Image ID="Image:{number}" Name="{image.get("name", "")}"><Pixels ID="Pixels:{number}" Type="uint8" '
            f'DimensionOrder="XYCZT" SizeX="{width}" SizeY="{height}" SizeC="{planes * samples}" SizeZ="1" SizeT="1" '
            f'PhysicalSizeX="{mpp}" PhysicalSizeY="{mpp}">{channels}'
            f'<TiffData IFD="{ifd}" PlaneCount="{planes}">{reference}</TiffData></Pixels></Image>'
        )
    return text + "</OME>"


@pytest.mark.parametrize("named", [True, False])
def test_an_ome_file_whose_label_and_macro_stand_first(tmp_path, section, named):
    right = section()
    others = [(160, 120), (800, 100)]
    names = ["label image", "macro image"] if named else ["", ""]
    xml = ome([{"size": size, "name": name} for size, name in zip(others, names)] + [{"size": SIZE, "name": "a.svs"}])
    path = write(
        tmp_path / "a.ome.tif",
        (label(others[0]), {**TILED, "description": xml}),
        (label(others[1], (240, 240, 200)), TILED),
        (right, TILED),
    )
    with open_slide(path) as slide:
        assert_is(slide, right, levels=1)
        associated = slide.info.associated
        assert associated == (("label", "macro") if named else ("image 1",)) or not named
        assert "thumbnail" not in associated


def test_a_named_label_larger_than_the_slide_is_not_the_slide(tmp_path, section):
    right = section(1, (320, 240))
    xml = ome([{"size": (320, 240), "name": "S1"}, {"size": (640, 480), "name": "label image"}])
    path = write(tmp_path / "a.ome.tif", (right, {**TILED, "description": xml}), (label((640, 480)), TILED))
    with open_slide(path) as slide:
        assert_is(slide, right)
        assert slide.info.associated == ("label",)


def test_ome_scenes_are_found_by_name(tmp_path, section):
    scenes = [section(1), section(2)]
    xml = ome([{"size": SIZE, "name": "left"}, {"size": SIZE, "name": "right"}])
    path = write(tmp_path / "a.ome.tif", (scenes[0], {**TILED, "description": xml}), (scenes[1], TILED))
    with open_slide(path, scene="right") as slide:
        assert_is(slide, scenes[1])
        assert [scene.name for scene in slide.info.scenes] == ["left", "right"]
    with pytest.raises(RequestError, match=r"no scene 'middle': the file has scenes 0 \(left\), 1 \(right\)"):
        open_slide(path, scene="middle")


def test_each_ome_scene_has_its_own_pixel_size(tmp_path, section):
    xml = ome([{"size": SIZE, "mpp": 0.5}, {"size": SIZE, "mpp": 0.25}])
    path = write(tmp_path / "a.ome.tif", (section(1), {**TILED, "description": xml}), (section(2), TILED))
    for scene, mpp in ((None, 0.5), (0, 0.5), (1, 0.25)):
        with open_slide(path, scene=scene) as slide:
            assert slide.mpp == (mpp, mpp)


@pytest.mark.parametrize("where", ["tags", "OME"])
@pytest.mark.parametrize("first", [True, False])
def test_a_macro_that_is_larger_than_a_small_slide_is_recognised_by_its_pixel_size(tmp_path, section, where, first):
    right, macro = section(), label((900, 600))
    images = [{"size": (900, 600), "mpp": 20}, {"size": SIZE}]
    images = images if first else images[::-1]
    pictures = [(macro, {**TILED}), (right, {**TILED})]
    for (_, options), per_cm in zip(pictures, (500, 20_000)):
        if where == "tags":
            options |= {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
    pictures = pictures if first else pictures[::-1]
    if where == "OME":
        pictures[0][1]["description"] = ome(images)
    with open_slide(write(tmp_path / "a.tif", *pictures)) as slide:
        assert_is(slide, right)
        assert slide.mpp == (0.5, 0.5)
        assert slide.info.scenes == ()
        assert slide.info.associated == ("image 1" if first else "image 2",)


UUIDS = ("11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222")


def write_set(folder: Path, section, *, uuid: bool = True) -> list[tuple[Path, np.ndarray]]:
    """A set of two files, each with the OME-XML of both, and offsets that differ."""
    images = [{"size": SIZE, "ifd": 0, "file": f"a_s{n}.ome.tif", "uuid": UUIDS[n]} for n in (0, 1)]
    made = []
    for number in (0, 1):
        pixels = section(number + 1)
        options = {**TILED, "description": ome(images, UUIDS[number] if uuid else None), "software": "x" * (9 * number)}
        made.append((write(folder / f"a_s{number}.ome.tif", (pixels, options)), pixels))
    return made


@pytest.mark.parametrize("uuid", [True, False])
def test_a_file_of_an_ome_set_shows_its_own_image(tmp_path, section, uuid):
    for path, pixels in write_set(tmp_path, section, uuid=uuid):
        with open_slide(path) as slide:
            assert_is(slide, pixels)
            assert "one of a set" in " ".join(slide.info.notes)


@pytest.mark.parametrize("uuid", [True, False])
def test_a_renamed_file_of_an_ome_set_shows_its_own_image(tmp_path, section, uuid):
    (_, _), (path, pixels) = write_set(tmp_path, section, uuid=uuid)
    with open_slide(path.rename(tmp_path / "b.ome.tif")) as slide:
        assert_is(slide, pixels)


def test_an_ome_tiff_whose_text_is_in_a_companion_is_read_by_its_own_images(tmp_path, section):
    right = section()
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        '<BinaryOnly MetadataFile="a.companion.ome" UUID="urn:uuid:2"/></OME>'
    )
    path = write(tmp_path / "a.ome.tif", (right, {**TILED, "description": text}), (reduced(right, 2), TILED))
    with open_slide(path) as slide:
        assert_is(slide, right, levels=2)
        assert "a.companion.ome" in " ".join(slide.info.notes)


def test_an_ome_tiff_that_only_carries_the_text_of_a_set_names_its_files(tmp_path):
    images = [{"size": (4096, 4096), "ifd": 0, "file": f"a_s{n}.ome.tif", "uuid": UUIDS[n]} for n in (0, 1)]
    placeholder = np.zeros((16, 16, 3), np.uint8)
    path = write(tmp_path / "a.ome.tif", (placeholder, {**RGB, "description": ome(images, UUIDS[0][::-1])}))
    with pytest.raises(UnsupportedSlideError, match=r"holds none itself.*a_s0\.ome\.tif, a_s1\.ome\.tif"):
        open_slide(path)


@pytest.mark.parametrize(
    "images",
    [
        [{"size": (1280, 960)}],  # of the file before its size was changed
        [{"size": SIZE, "ifd": 4}],
        [{"size": SIZE, "channels": 3}],  # of the file before its channels were joined to RGB
        [{"size": SIZE}, {"size": (100, 300), "name": "label image"}],  # the label was not converted
    ],
)
def test_ome_xml_copied_from_another_file_does_not_hide_the_levels(tmp_path, section, images):
    right = section()
    path = write(
        tmp_path / "a.tif",
        (right, {**TILED, "description": ome(images)}),
        (reduced(right, 2), {**TILED, "subfiletype": 1}),
    )
    with open_slide(path) as slide:
        assert_is(slide, right, levels=2)
        assert "does not fit" in " ".join(slide.info.notes)


def test_levels_behind_a_fitting_ome_xml_are_found(tmp_path, section):
    """A converter adds levels as further directories and copies the text of the file it read."""
    right = section()
    first = {**TILED, "description": ome([{"size": SIZE}])}
    with open_slide(write(tmp_path / "a.tif", (right, first), (reduced(right, 2), TILED))) as slide:
        assert_is(slide, right, levels=2)
        assert slide.mpp == (0.5, 0.5)


def test_a_reader_of_one_image_refuses_the_channels_of_an_ome_file_by_their_number(tmp_path, section):
    grey = {"tile": (64, 64), "photometric": "minisblack", "metadata": None}
    xml = ome([{"size": SIZE, "channels": 3}])
    images = [(section(n)[..., 0].copy(), {**grey, "description": xml} if n == 1 else grey) for n in (1, 2, 3)]
    path = write(tmp_path / "a.ome.tif", *images)
    with pytest.raises(UnsupportedSlideError, match=r"3 channels or planes \(CYX\)"):
        open_slide(path, "tiff")


@pytest.mark.parametrize("layout", [TILED, RGB])
def test_an_orientation_is_not_applied_and_noted(tmp_path, section, layout):
    path = tmp_path / "a.tif"
    for turn in (1, 3, 6):
        tifffile.imwrite(path, section(), extratags=[(274, "H", 1, turn, True)], **layout)
        with open_slide(path) as slide:
            assert_is(slide, section())
            assert any(f"orientation {turn}, which is not applied" in note for note in slide.info.notes) == (turn > 1)


@pytest.mark.parametrize("below", [True, False])
def test_levels_down_to_one_px_are_levels(tmp_path, section, below):
    """libvips writes such pyramids with depth=onepixel."""
    right, lossless = section(), {"tile": (64, 64), "compression": "deflate", **RGB}
    sizes = [(SIZE[0] >> n, SIZE[1] >> n) for n in range(1, 9)] + [(1, 1)]
    small = [np.asarray(Image.fromarray(right).resize(size, Image.Resampling.BOX)) for size in sizes]
    images = [(right, {**lossless, "subifds": len(small) if below else 0})]
    images += [(part, {**lossless, "subfiletype": 1}) for part in small]
    with open_slide(write(tmp_path / "a.tif", *images)) as slide:
        assert slide.level_dimensions[:5] == (SIZE, *sizes[:4])
        assert_is(slide, right, tolerance=1.0)


def test_an_ome_tiff_without_tiff_data_in_rgb_is_read_with_its_pixel_size(tmp_path, section):
    width, height = SIZE
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0"><Pixels DimensionOrder="XYCZT" ID="Pixels:0" SizeC="3" SizeT="1" SizeX="{width}" '
        f'SizeY="{height}" SizeZ="1" Type="uint8" PhysicalSizeX="0.25" PhysicalSizeY="0.25"/></Image></OME>'
    ).encode()
    with open_slide(write(tmp_path / "a.ome.tif", (section(), {**TILED, "description": xml}))) as slide:
        assert_is(slide, section(), levels=1)
        assert slide.mpp == (0.25, 0.25)
        assert not any("does not fit" in note for note in slide.info.notes)
