"""A page layout in inches from the top-left corner: measured text, boxes, images. Matplotlib, Agg."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from wsikit.exporters.png import encode_png

INK, QUIET, WARN = "#1a1a1a", "#5a5a5a", "#8f1d14"
LEADING = 1.42  # line height over font size
MEASURE_DPI = 150
_BREAKS = re.compile(r"[^\S\N{NO-BREAK SPACE}]+")

_CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "Microsoft YaHei")


@dataclass(frozen=True)
class Line:
    """One line of text."""

    text: str
    size: float  # points
    color: str
    bold: bool = False

    @property
    def height(self) -> float:
        """Inches."""
        return self.size * LEADING / 72


def block_height(lines: list[Line]) -> float:
    """Inches."""
    return sum(line.height for line in lines)


@cache
def _families() -> list[str]:
    """Matplotlib's own font, so that pages are equal everywhere; then installed fonts for Chinese, Japanese, Korean."""
    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _CJK_FONTS if name in installed)]


def _font(size: float, bold: bool) -> FontProperties:
    return FontProperties(family=_families(), size=size, weight="bold" if bold else "normal")


@cache
def _drawable() -> frozenset[int]:
    """Code points that the available fonts can draw."""
    paths = [findfont(FontProperties(family=name)) for name in _families()]
    return frozenset(code for path in paths for code in get_font(path).get_charmap())


def drawable(text: str) -> str:
    """`text` on one line, with □ for each character that no available font can draw.

    >>> drawable("slide\\n1")
    'slide 1'
    """
    one_line = _BREAKS.sub(" ", text).strip(" ")
    return "".join(char if ord(char) in _drawable() else "□" for char in one_line)


@lru_cache(maxsize=256)
def text_width(text: str, size: float, bold: bool = False) -> float:
    """Inches."""
    renderer = RendererAgg(1, 1, MEASURE_DPI)  # type: ignore[no-untyped-call]
    width, _, _ = renderer.get_text_width_height_descent(  # type: ignore[no-untyped-call]
        text, _font(size, bold), ismath=False
    )
    return float(width) / MEASURE_DPI


def wrap(line: Line, width_in: float) -> list[Line]:
    """Break a line between words so that each part fits into `width_in`; a word that is too long is shortened."""
    parts: list[str] = []
    words = drawable(line.text).split(" ")
    while words:
        words[0] = ellipsis(words[0], width_in, line.size, line.bold)
        # bisection: measuring is slow, and most texts fit into one line
        count, most = 1, len(words)
        while count < most:
            tried = most if most == len(words) else (count + most + 1) // 2
            if text_width(" ".join(words[:tried]), line.size, line.bold) <= width_in:
                count = tried
            else:
                most = tried - 1
        parts.append(" ".join(words[:count]))
        words = words[count:]
    return [replace(line, text=part) for part in parts]


def ellipsis(text: str, width_in: float, size: float, bold: bool = False) -> str:
    """Shorten `text` in its middle (ids differ at their ends) until it fits."""
    text = drawable(text)
    if text_width(text, size, bold) <= width_in:
        return text
    keep = len(text)
    while keep > 1:
        keep -= max(1, keep // 20)
        head = (keep + 1) // 2
        short = f"{text[:head]}…{text[len(text) - (keep - head) :]}"
        if text_width(short, size, bold) <= width_in:
            return short
    return "…"


_ROUNDING = 1e-6  # px: a corner at half a pixel is always rounded to the same side


class Pasted(Artist):
    """Pixels that are drawn one to one: axes would resample them, which takes longer than all other drawing."""

    zorder = 0  # below frames and text, as axes are

    def __init__(self, pixels: npt.NDArray[np.uint8], box: Bbox) -> None:
        super().__init__()
        self.pixels = pixels
        self.box = box
        """Shares of the figure."""

    def draw(self, renderer: RendererBase) -> None:
        figure = self.get_figure()
        assert figure is not None
        corner = self.box.transformed(figure.transFigure)
        opaque = np.full((*self.pixels.shape[:2], 4), 255, dtype=np.uint8)
        opaque[..., :3] = self.pixels[::-1]  # from the bottom upwards
        renderer.draw_image(renderer.new_gc(), corner.x0 + _ROUNDING, corner.y0 + _ROUNDING, opaque)


def png_of(figure: Figure) -> bytes:
    """The figure, which has an Agg canvas and no transparent parts, as a PNG."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()  # type: ignore[no-untyped-call]
    return encode_png(np.asarray(canvas.buffer_rgba())[..., :3], dpi=figure.dpi, software="wsikit")  # type: ignore[no-untyped-call]


class Pen:
    """Draws on a figure in inches from its top-left corner."""

    def __init__(self, figure: Figure, page: tuple[float, float]) -> None:
        self._figure = figure
        self._page = page

    def text(self, text: str, x: float, y: float, style: Line, align: Literal["left", "right"] = "left") -> None:
        """`y` is the top of the line."""
        self._figure.text(
            x / self._page[0],
            1 - (y + style.size / 72) / self._page[1],
            text,
            ha=align,
            va="baseline",
            color=style.color,
            fontproperties=_font(style.size, style.bold),
            parse_math=False,  # a slide's name may hold a $
        )

    def tag(self, line: Line, x: float, y: float) -> None:
        """Text with a white outline, centred at (x, y)."""
        self._figure.text(
            x / self._page[0],
            1 - y / self._page[1],
            drawable(line.text),
            ha="center",
            va="center",
            color=line.color,
            fontproperties=_font(line.size, line.bold),
            parse_math=False,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            zorder=10,  # above the image
        )

    def lines(self, lines: list[Line], x: float, y: float) -> None:
        """One below the other."""
        for line in lines:
            self.text(line.text, x, y, line)
            y += line.height

    def box(self, box: tuple[float, float, float, float], color: str) -> None:
        """A filled box (x, y, width, height)."""
        self._figure.add_artist(Rectangle(*self._bounds(box), transform=self._figure.transFigure, color=color, lw=0))

    def frame(self, box: tuple[float, float, float, float], color: str) -> None:
        """A thin frame around the box (x, y, width, height)."""
        self._figure.add_artist(
            Rectangle(*self._bounds(box), transform=self._figure.transFigure, fill=False, ec=color, lw=0.6)
        )

    def image(self, pixels: npt.NDArray[np.uint8], box: tuple[float, float, float, float]) -> None:
        """Pixels (h, w, 3), as they are, filling the box (x, y, width, height)."""
        (x, y), width, height = self._bounds(box)
        n_rows, n_cols = pixels.shape[:2]
        if abs(box[2] * self._figure.dpi - n_cols) < 1e-6 and abs(box[3] * self._figure.dpi - n_rows) < 1e-6:
            self._figure.add_artist(Pasted(pixels, Bbox.from_bounds(x, y, width, height)))
            return
        axes = self._figure.add_axes((x, y, width, height))
        axes.imshow(pixels, interpolation="nearest", aspect="auto")
        axes.set_axis_off()

    def _bounds(self, box: tuple[float, float, float, float]) -> tuple[tuple[float, float], float, float]:
        """Lower-left corner, width and height as shares of the page, y up."""
        x, y, width, height = box
        page_width, page_height = self._page
        return (x / page_width, 1 - (y + height) / page_height), width / page_width, height / page_height
