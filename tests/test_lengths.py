"""Numbers and units of length as people, offices and scanners write them."""

from __future__ import annotations

import pytest

from wsikit.lengths import parse_mpp, parse_number, um_per_unit


@pytest.mark.parametrize(
    ("text", "mpp"),
    [
        ("0.25", 0.25),
        ("0,4990", 0.499),
        (",5", 0.5),
        (" 0. 25 ", 0.25),
        ("0 ,25", 0.25),
        ("\u00a00.25\u202fµm", 0.25),
        ("0.25 µm", 0.25),
        ("0.25 \u03bcm/px", 0.25),  # Greek mu
        ("0.499\xb5m", 0.499),
        ("0.499 \\u00B5m", 0.499),  # ImageJ
        ("0.499 Âµm", 0.499),  # UTF-8 read as Latin-1
        ("0.499 \ufffdm", 0.499),
        ("0.25 microns per pixel", 0.25),
        ("0.25um/pixel", 0.25),
        ("250 nm", 0.25),
        ("0.00025 mm", 0.25),
        ("2,5E-04 mm", 0.25),
        ("1 cm", 10_000),
        ("1 inch", 25_400),
        ("1,234.5 nm", 1.2345),
        ("1.234,5 nm", 1.2345),
        ("1 234,5 nm", 1.2345),
        ("12'345.5 nm", 12.3455),
        ("1,234,567 nm", 1234.567),
    ],
)
def test_a_pixel_size_is_read_with_its_unit_point_comma_and_spaces(text, mpp):
    assert parse_mpp(text) == pytest.approx(mpp, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a lot",
        "0",
        "-0.25",
        "nan",
        "inf",
        "1e999",
        "0.25 0.26",
        "0.25 0,26",
        "0.25x0.25",
        "0.25 px",
        "72 dpi",
        "1.2.3",
    ]
    + ["0,25,3", "0.25 26", "1 2 3", "0,000.25", "1,2345.6", "40x"],
)
def test_what_is_not_one_pixel_size_is_refused_and_quoted(text):
    with pytest.raises(ValueError, match="is not a pixel size in µm") as caught:
        parse_mpp(text)
    assert repr(text) in str(caught.value)


def test_units_are_known_in_any_case_and_number_and_pixels_are_no_length():
    for unit in ("um", "UM", "micron", "Microns", "MICROMETERS", "µm", "micrometre"):
        assert um_per_unit(unit) == 1.0, unit
    assert [um_per_unit(unit) for unit in ("inch", "inches", "cm", "mm", "nm", "m")] == [
        25_400,
        25_400,
        1e4,
        1e3,
        1e-3,
        1e6,
    ]
    for unit in ("pixel", "pixels", "reference frame", "s", "dpi"):
        assert um_per_unit(unit) is None, unit


def test_a_number_may_be_negative_and_has_no_unit():
    assert parse_number("-1,5") == -1.5
    with pytest.raises(ValueError, match="'1 µm' is not a number"):
        parse_number("1 µm")
