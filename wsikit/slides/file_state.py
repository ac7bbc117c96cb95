"""Whether the file of a slide is still what was opened: what is computed from a file that changes must not be kept."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass

from wsikit.errors import SlideError
from wsikit.slides.fingerprint import fingerprint
from wsikit.store.paths import is_url, place


@dataclass(frozen=True)
class FileState:
    """Size and modification time of a slide's file."""

    path: str
    size: int
    """Bytes; for a store at a URL, of its root metadata."""
    modified: int
    """Modification time, ns; for a store at a URL, the CRC-32 of its root metadata."""

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> FileState:
        """The state now; OSError without such a file.

        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     state = FileState.of(file.name)
        ...     state.check()
        ...     state.size
        0
        """
        path = os.fspath(path)
        if is_url(path):
            root = (place(path) / "zarr.json").read_bytes()
            return cls(path, len(root), zlib.crc32(root))
        found = os.stat(path)
        return cls(path, found.st_size, found.st_mtime_ns)

    def check(self) -> None:
        """SlideError if the file is not there, or has changed since."""
        try:
            now = FileState.of(self.path)
        except OSError as error:
            raise self._gone(error) from error
        if now != self:
            raise self._changed()

    def check_read(self, expected: str, *, complete: bool) -> None:
        """SlideError if pixels that were just read may be of another file than the one opened.

        Parameters
        ----------
        expected
            Fingerprint of the slide that was opened.
        complete
            Whether all pixels could be read. If so, size and time are compared, and a file that was deleted passes:
            its pixels came from the open file. If not, it is not clear whether the slide or its drive is at fault, and
            the fingerprint decides. Folders and URLs have the fingerprint alone: a file that another program adds to
            a folder changes its time.
        """
        whole = is_url(self.path) or os.path.isdir(self.path)
        if not complete:
            if not whole:
                self.check()
            try:
                found = fingerprint(self.path)
            except OSError as error:
                raise self._gone(error) from error
            if found != expected:
                raise self._changed()
            return
        if whole:
            return
        try:
            now = FileState.of(self.path)
        except OSError:
            return
        if now != self:
            raise self._changed()

    def _gone(self, error: OSError) -> SlideError:
        return SlideError(
            f"{self.path}: could no longer be read at the end ({error.strerror or error}). Check that the drive is "
            "still mounted, and run again: what is complete is kept."
        )

    def _changed(self) -> SlideError:
        return SlideError(f"{self.path}: changed while it was read. Let the copy finish, and run again.")
