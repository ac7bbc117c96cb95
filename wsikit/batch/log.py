"""The run's log: one JSON line per start and end of a stage of a slide, in OUT/log.jsonl. Appended, never rewritten."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

LOG_FILE = "log.jsonl"


class RunLog:
    """Appends events to OUT/log.jsonl. Safe to use from several threads.

    Parameters
    ----------
    on_event
        Called with each event, one call at a time.
    """

    def __init__(self, out: Path, on_event: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        self.path = out / LOG_FILE
        self._on_event = on_event
        self._fails = False
        self._lock = threading.Lock()
        self._start = time.monotonic()

    def write(self, event: str, *, ago_s: float = 0.0, **values: Any) -> None:
        """Append one event with its time: `time` (UTC) and `t`, seconds since the run began; it was `ago_s` ago."""
        record = {
            "time": (datetime.now(UTC) - timedelta(seconds=ago_s)).isoformat(timespec="milliseconds"),
            "t": round(time.monotonic() - self._start - ago_s, 3),
            "event": event,
            **values,
        }
        line = json.dumps(record, ensure_ascii=False)
        logger.info("%s", line)
        with self._lock:
            try:
                with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(line + "\n")
            except OSError as error:  # a full disk must not end the run: what is to be kept is in other files
                if not self._fails:
                    logger.error("%s: cannot be written (%s)", self.path, error.strerror or error)
                self._fails = True
            if self._on_event is not None:
                self._on_event(record)


def read_log(out: Path) -> list[dict[str, Any]]:
    """All events of the runs in `out`, oldest first; lines cut off by a crash are skipped.

    Examples
    --------
    >>> import tempfile
    >>> log = RunLog(Path(tempfile.mkdtemp()))
    >>> log.write("run", slides=2)
    >>> [(event["event"], event["slides"]) for event in read_log(log.path.parent)]
    [('run', 2)]
    """
    path = out / LOG_FILE
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events
