"""Pixel sizes on the command line, as people type them."""

from __future__ import annotations

import click
import pytest

from wsikit.cli.options import MPP


@pytest.mark.parametrize("text", ["0.25", "0,25", "0.25um", "0,25 µm/px", "250 nm"])
def test_a_pixel_size_may_have_a_comma_and_a_unit(text):
    assert MPP.convert(text, None, None) == pytest.approx(0.25)


def test_what_is_no_pixel_size_is_a_usage_error_that_quotes_it():
    with pytest.raises(click.UsageError, match="'half' is not a pixel size in µm"):
        MPP.convert("half", None, None)
