"""What the samples of a TIFF image mean, by its tags, and their conversion to RGB. No pixels are read here.

White is a claim: a sample is used as alpha only if ExtraSamples states that it is one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from wsikit.slides.formats.tiff.codecs import COMPRESSIONS, JPEG, JPEG_2000, keeps_colours
from wsikit.slides.to_rgb import over_white, to_8_bit, ycbcr_to_rgb

Pixels = npt.NDArray[np.uint8]

GREY_0_IS_WHITE, GREY, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
_COLOURS = {GREY_0_IS_WHITE: 1, GREY: 1, RGB: 3, PALETTE: 1, YCBCR: 3}
_REFUSED = {
    4: "a transparency mask",
    5: "CMYK colours",
    8: "CIELab colours",
    9: "ICCLab colours",
    10: "ITULab colours",
    32803: "the raw pixels of a colour filter array",
    32844: "LogL luminances",
    32845: "LogLuv colours",
    34892: "linear raw colours",
}
_PREMULTIPLIED, _STRAIGHT = 1, 2
_MAX_SAMPLE_VALUE, _S_MIN, _S_MAX = 281, 340, 341
_COEFFICIENTS, _SUBSAMPLING, _REFERENCE = 529, 530, 532


class UnfitSamplesError(ValueError):
    """The samples cannot be converted to RGB by what the file states. The message says why."""


@dataclass(frozen=True)
class Samples:
    """The meaning of the samples of one image."""

    colours: int
    """Number of samples that are colours, the first ones of a px: 1 grey or palette index, 3 RGB or YCbCr."""
    white: float
    """Sample value that becomes 255."""
    black: float = 0
    """Sample value that becomes 0."""
    inverted: bool = False
    """0 is white."""
    palette: Pixels | None = None
    """RGB of each sample value, (n, 3)."""
    ycbcr: bool = False
    """What the decoder returns is YCbCr."""
    alpha: int | None = None
    """Which sample is alpha."""
    premultiplied: bool = False
    """The colours have been multiplied with alpha."""
    opaque: float = 255
    """Alpha of an opaque px."""
    per_pixel: int = 1
    """Number of samples of a px, with those that are not used."""
    notes: tuple[str, ...] = ()
    """What was decided, and what is not used. One sentence each."""

    @property
    def plain(self) -> bool:
        """Whether a decoder of pictures alone gives the right pixels: 8-bit grey or RGB, and nothing else."""
        return self.not_plain is None

    @property
    def not_plain(self) -> str | None:
        """Why a decoder of pictures alone does not give the right pixels, as the end of a sentence; None if it does."""
        if self.palette is not None:
            return "its samples are indices of a palette"
        if self.inverted:
            return "its grey tiles have 0 as white"
        if self.per_pixel != self.colours:
            return f"its pixels have {self.per_pixel} samples, of which {self.colours} are colours"
        if (self.black, self.white) != (0, 255):
            bits = int(self.white).bit_length()
            if self.black == 0 and self.white == (1 << bits) - 1:
                return f"its tiles have {bits} bits per sample, not 8"
            return f"its samples range from {self.black:g} to {self.white:g}, not from 0 to 255"
        return "its tiles are YCbCr, which their codec does not convert" if self.ycbcr else None

    def to_rgb(self, samples: npt.NDArray[np.generic]) -> Pixels:
        """uint8 (h, w, 3) from the samples of one tile, strip or image, (h, w, samples of a px).

        Raises
        ------
        ValueError
            A px has fewer samples than the tags state, or some are not numbers.
        """
        if samples.shape[2] < self.per_pixel:
            raise ValueError(f"{samples.shape[2]} samples per px found where {self.per_pixel} are expected")
        colour = samples[..., : self.colours]
        if self.palette is not None:
            rgb = self.palette[colour[..., 0].astype(np.intp)]
        else:
            rgb = to_8_bit(colour, self.white, self.black)
            rgb = 255 - rgb if self.inverted else rgb
            rgb = ycbcr_to_rgb(rgb) if self.ycbcr else rgb
            rgb = np.repeat(rgb, 3, axis=2) if self.colours == 1 else rgb
        if self.alpha is not None:
            alpha = to_8_bit(samples[..., self.alpha], self.opaque)
            return over_white(rgb, alpha, premultiplied=self.premultiplied)
        return np.ascontiguousarray(rgb)

    def without_alpha(self) -> Samples:
        """For an image whose alpha is 0 everywhere, while it has colours: then the alpha means nothing."""
        number = (self.alpha or 0) + 1
        note = f"Sample {number} is stated to be alpha, but is 0 everywhere: it is not used, and the colours are shown."
        kept = tuple(note for note in self.notes if "alpha" not in note)
        return replace(self, alpha=None, notes=(*kept, note))


def samples_of(page: tifffile.TiffPage, significant_bits: int | None = None) -> Samples:
    """The meaning of the samples of `page`; `significant_bits` as OME-XML states them.

    Raises
    ------
    UnfitSamplesError
        The file does not state what is needed, or something that is not read here.
    """
    photometric, odd = _photometric(page)
    if photometric not in _COLOURS:
        words = _REFUSED.get(photometric, f"colours of TIFF type {photometric}")
        raise UnfitSamplesError(f"an image with {words}, where RGB or grey is expected")
    _check_type(page)
    count = page.samplesperpixel
    colours = 1 if photometric == YCBCR and count == 1 else _COLOURS[photometric]
    _check_jpeg(page)
    alpha, premultiplied, notes = _extra_samples(page, colours)
    notes += [odd] if odd else []
    palette, black, white = None, 0.0, 255.0
    if photometric == PALETTE:
        palette = _palette(page)
        notes.append("Colours are those of the file's palette (ColorMap).")
    else:
        black, white, why = _range(page, significant_bits)
        notes += [why] if why else []
    if photometric == GREY_0_IS_WHITE:
        notes.append("0 is white (PhotometricInterpretation 0): grey levels are inverted.")
    if photometric == YCBCR and colours == 3:
        _check_ycbcr(page)
    return Samples(
        colours=colours,
        white=white,
        black=black,
        inverted=photometric == GREY_0_IS_WHITE,
        palette=palette,
        ycbcr=photometric == YCBCR and colours == 3 and (keeps_colours(int(page.compression)) or _apart(page)),
        alpha=alpha,
        premultiplied=premultiplied,
        opaque=(1 << _bits(page)) - 1 if _type(page).kind in "bu" else white,
        per_pixel=count,
        notes=tuple(notes),
    )


def _photometric(page: tifffile.TiffPage) -> tuple[int, str | None]:
    """TIFF code of the colour space, and a note if it is not the stated one: JPEG of three components is in colour."""
    stated = int(page.photometric)
    if stated == GREY and page.samplesperpixel == 3 and int(page.compression) == JPEG and not _apart(page):
        return YCBCR, "The tags state grey, the JPEG streams have three components: they are read in colour."
    return stated, None


def _check_type(page: tifffile.TiffPage) -> None:
    """One type for all samples, of at most 64 bits."""
    if isinstance(page.bitspersample, tuple):
        raise UnfitSamplesError(
            f"samples of {', '.join(map(str, page.bitspersample))} bits, where all must have equal bits"
        )
    formats = page.tags.valueof(339, ())
    if isinstance(formats, tuple) and len(set(formats)) > 1:
        raise UnfitSamplesError(f"samples of several kinds (SampleFormat {formats}), where all must be of one")
    if page.dtype is None or page.dtype.kind not in "buif" or page.dtype.itemsize > 8:
        raise UnfitSamplesError(f"samples of type {page.dtype}, where 8- or 16-bit unsigned numbers are expected")


def _check_jpeg(page: tifffile.TiffPage) -> None:
    if int(page.compression) == JPEG and (page.samplesperpixel not in (1, 3) or page.dtype != np.uint8):
        channels, bits = page.samplesperpixel, page.bitspersample
        raise UnfitSamplesError(
            f"JPEG tiles of {channels} channels of {bits} bits, where 1 or 3 channels of 8 bits are expected"
        )


def _extra_samples(page: tifffile.TiffPage, colours: int) -> tuple[int | None, bool, list[str]]:
    """Which sample is alpha, whether it is premultiplied, and notes on the samples beyond the colours."""
    count = page.samplesperpixel
    if count < colours:
        raise UnfitSamplesError(f"an image of {count} channels, where RGB or one grey channel is expected")
    if count == colours:
        return None, False, []
    kinds = [int(kind) for kind in page.extrasamples or ()][-(count - colours) :]
    kinds += [0] * (count - colours - len(kinds))
    stated = [number for number, kind in enumerate(kinds) if kind in (_PREMULTIPLIED, _STRAIGHT)]
    if colours == 1 and not stated:
        # grey with something else, or several stains: the file does not say which
        raise UnfitSamplesError(
            f"an image of {count} channels, none of them stated to be alpha, where RGB or one grey channel is expected"
        )
    notes = []
    if len(kinds) > len(stated[:1]):
        unused = [str(colours + number + 1) for number in range(len(kinds)) if number not in stated[:1]]
        which = f"number {unused[0]} is" if len(unused) == 1 else f"numbers {', '.join(unused)} are"
        notes.append(f"A px has {count} samples; {which} unspecified (ExtraSamples) and not used.")
    if not stated:
        return None, False, notes
    premultiplied = kinds[stated[0]] == _PREMULTIPLIED
    kind = "premultiplied (associated)" if premultiplied else "straight (unassociated)"
    notes.append(f"Sample {colours + stated[0] + 1} is {kind} alpha: the colours are shown on white glass.")
    return colours + stated[0], premultiplied, notes


def _palette(page: tifffile.TiffPage) -> Pixels:
    table = page.tags.valueof(320)
    if _type(page).kind not in "bu" or _type(page).itemsize > 2 or int(page.compression) in (JPEG, *JPEG_2000):
        raise UnfitSamplesError(
            f"palette colours with samples of type {page.dtype} in this codec, which is not defined"
        )
    if table is None or np.size(table) != 3 << _bits(page):
        raise UnfitSamplesError("palette colours without a complete palette (ColorMap)")
    colours = np.asarray(table, dtype=np.uint32).reshape(3, -1).T
    # some writers store 8-bit colours where the format has 16 bits
    scaled = colours if colours.max() <= 255 else (colours * 255 + 32767) // 65535
    return scaled.astype(np.uint8)


def _range(page: tifffile.TiffPage, significant_bits: int | None) -> tuple[float, float, str | None]:
    """Sample values of black and white, and how they were found if that is not plain."""
    if _type(page).kind in "if" or _type(page).itemsize > 2:
        return _stated_range(page, significant_bits)
    white = white_level(page, significant_bits)
    bits = _bits(page)
    if white != (1 << bits) - 1:
        why = "as the file states (MaxSampleValue, or SignificantBits of OME)"
    elif bits == 16:
        why = "samples have 16 bits, and the file does not state that fewer are used"
    elif bits == 8:
        return 0, white, None
    else:
        why = f"samples have {bits} bits"
    return 0, white, f"White is sample value {white}: {why}."


def _stated_range(page: tifffile.TiffPage, significant_bits: int | None) -> tuple[float, float, str]:
    """Signed, float and long samples have no natural white: the file must state their range."""
    low, high = _number(page, _S_MIN), _number(page, _S_MAX)
    if _type(page).kind == "u":
        low, high = 0.0, high or _number(page, _MAX_SAMPLE_VALUE)
        if not high and significant_bits and significant_bits < _bits(page):
            high = float((1 << significant_bits) - 1)
    if low is None or high is None or not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise UnfitSamplesError(
            f"samples of type {page.dtype} whose range the file does not state (SMinSampleValue, SMaxSampleValue), "
            "where 8- or 16-bit unsigned numbers are expected"
        )
    return low, high, f"Black is sample value {low:g} and white {high:g}, the range that the file states."


def white_level(page: tifffile.TiffPage, significant_bits: int | None) -> int:
    """The sample value that becomes 255: stated by the file, else the maximum that its bits allow."""
    bits = _bits(page)
    full = (1 << bits) - 1
    if bits <= 8:
        return full
    stated = _number(page, _MAX_SAMPLE_VALUE) or _number(page, _S_MAX)
    if stated and 255 < stated <= full:
        return int(stated)
    if significant_bits and 8 < significant_bits <= bits:
        return (1 << significant_bits) - 1
    return full


def _check_ycbcr(page: tifffile.TiffPage) -> None:
    """YCbCr that a JPEG or JPEG 2000 decoder converts is theirs; other YCbCr must be as JPEG has it, at full size."""
    code = int(page.compression)
    if code == JPEG or code in JPEG_2000:
        return
    if not keeps_colours(code) and COMPRESSIONS.get(code) != "WebP":
        raise UnfitSamplesError("YCbCr colours in a codec of pictures that has its own, where RGB or grey is expected")
    sampling = page.tags.valueof(_SUBSAMPLING)
    if sampling is None or tuple(sampling) != (1, 1):
        raise UnfitSamplesError("YCbCr colours at reduced size without JPEG, where RGB or grey is expected")
    coefficients = _ratios(page.tags.valueof(_COEFFICIENTS))
    if coefficients and not np.allclose(coefficients, (0.299, 0.587, 0.114), atol=0.002):
        raise UnfitSamplesError(f"YCbCr colours with coefficients {coefficients}, where those of JPEG are expected")
    stated = page.tags.valueof(_REFERENCE)
    reference = stated if stated and len(stated) == 6 else _ratios(stated)  # six whole numbers, or six rationals
    half, full = 1 << (_bits(page) - 1), (1 << _bits(page)) - 1
    if reference and not np.allclose(reference, (0, full, half, full, half, full), atol=1):
        raise UnfitSamplesError(f"YCbCr colours with ReferenceBlackWhite {reference}, where the full range is expected")


def _type(page: tifffile.TiffPage) -> np.dtype[Any]:
    assert page.dtype is not None  # _check_type
    return page.dtype


def _apart(page: tifffile.TiffPage) -> bool:
    """Whether each channel is stored on its own, so that no decoder sees the colours."""
    return int(page.planarconfig) == 2


def _bits(page: tifffile.TiffPage) -> int:
    return int(page.bitspersample)


def _number(page: tifffile.TiffPage, code: int) -> float | None:
    """The value of a tag with one number per sample: the largest, or the smallest of minima."""
    value = page.tags.valueof(code)
    if isinstance(value, tuple):
        value = (min if code == _S_MIN else max)(value, default=None)
    return None if value is None else float(value)


def _ratios(values: tuple[int, ...] | None) -> tuple[float, ...]:
    """TIFF rationals, which tifffile gives as one flat tuple of numerators and denominators."""
    if not values:
        return ()
    return tuple(a / b if b else 0.0 for a, b in zip(values[::2], values[1::2]))
