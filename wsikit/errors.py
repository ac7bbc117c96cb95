"""The errors that wsikit raises. Each message is one line: the file, what was found, what was expected, the next step.

WsikitError
├── RequestError   the request itself is wrong; nothing was started (exit status 2)
│   └── PluginError   a plug-in is missing or cannot be imported
├── SlideError     a file cannot be used as a slide
│   ├── UnsupportedSlideError   a format, codec or shape that no reader supports
│   └── BrokenSlideError        a known format whose content is damaged
├── ScaleError     the pixel size is missing, implausible, or too coarse for the request
├── ReadError      the pixels of one region could not be read
├── StoreError     a slide store is incomplete, of another format, or not written by wsikit
├── UnreachableError   a remote place does not answer; whether a file exists there is unknown
└── ModelError     a model folder is missing, damaged, or does not apply
"""

from __future__ import annotations

MOST_CHARACTERS = 2000
"""Of a message. Names and entries of files come from outside, and may be of any length."""


def one_line(text: str) -> str:
    """Text from outside as it can be shown on a terminal: one line, no control characters, not endless.

    >>> one_line("a.svs:\\n\\x1b[31mred"), len(one_line("x" * 10_000))
    ('a.svs: \\\\x1b[31mred', 2000)
    """
    if not text.isprintable():
        text = "".join(_shown(letter) for letter in text.replace("\r\n", "\n"))
    if len(text) <= MOST_CHARACTERS:
        return text
    end = MOST_CHARACTERS // 4  # the next step is there
    return f"{text[: MOST_CHARACTERS - end - 3]} … {text[-end:]}"


def reason_of(error: BaseException) -> str:
    """What an error of a library says, as a part of a sentence: a line of at most 300 characters; its type, if it says
    nothing.

    >>> reason_of(ValueError("width\\n  must be even"))
    'width must be even'
    """
    return one_line(" ".join(str(error).split()))[:300] or type(error).__name__


def _shown(letter: str) -> str:
    if letter.isprintable() or letter == "\xa0":
        return letter
    return " " if letter in "\n\r\t\v\f\u2028\u2029" else letter.encode("unicode_escape").decode()


class WsikitError(Exception):
    """Base class of all errors that wsikit raises. Its text is `one_line`."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class RequestError(WsikitError, ValueError):
    """The request itself is wrong: contradictory options, an impossible number."""


class PluginError(RequestError):
    """A requested plug-in is not installed, or its import fails."""


class SlideError(WsikitError):
    """A file cannot be used as a slide."""


class UnsupportedSlideError(SlideError):
    """The file is of a format, codec or shape that no installed reader supports."""


class BrokenSlideError(SlideError):
    """The file has a supported format, but its content is damaged or not a slide."""


class ScaleError(WsikitError, ValueError):
    """The pixel size (µm per pixel) is missing, implausible, or too coarse for the request."""


class ReadError(WsikitError, OSError):
    """The pixels of one region could not be read. They are never replaced by white pixels.

    Attributes
    ----------
    path : str
        The slide.
    level : int
        Pyramid level of `box`, 0 is the finest.
    box : tuple of int
        (x, y, width, height) in pixels of `level`.
    """

    def __init__(self, path: str, level: int, box: tuple[int, int, int, int], reason: str) -> None:
        super().__init__(path, level, box, reason)
        self.path = path
        self.level = level
        self.box = box
        self.reason = reason

    def __str__(self) -> str:
        x, y, width, height = self.box
        return one_line(
            f"{self.path}: level {self.level}, x={x} y={y} {width}×{height} px could not be read "
            f"({self.reason}). Copy the file again from its source, or leave this region out."
        )

    def __reduce__(self) -> tuple[type[ReadError], tuple[str, int, tuple[int, int, int, int], str]]:
        return type(self), (self.path, self.level, self.box, self.reason)


class StoreError(WsikitError):
    """A slide store is incomplete, not written by wsikit, or of a format that this version does not support."""


class UnreachableError(WsikitError):
    """A remote place does not answer: no network, no permission, no such bucket.

    It is deliberately neither a StoreError nor an OSError, since handlers of these treat a file as missing or damaged.
    """


class ModelError(WsikitError):
    """A model folder is missing or damaged, or the model does not apply to what is asked."""
