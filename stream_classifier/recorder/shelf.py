"""The folder of one stream's recordings: names, what a killed process left, and what is too much.

    <folder>/2026-11-24T23-00-01Z.bdf            recordings
    <folder>/alerts/2026-11-24T23-10-07Z-9f3c1e2a.bdf, .csv, .json, .png

Only files of such names are ever touched.
"""

from __future__ import annotations

import logging
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from stream_classifier.errors import RecordingInvalidError
from stream_classifier.recorder.bdf import mend

LOG = logging.getLogger(__name__)

_RECORDING: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ(?:-\d+)?\.bdf")
_EVIDENCE: Final = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ-[0-9a-z_-]+)\.(?:bdf|csv|json|png)(\.part)?"
)


class Shelf:
    """Keeps the files of one stream within bounds.

    Args:
        folder: Of this stream alone; made if it is not there.
        max_age_s: Files whose last change is longer ago are deleted.
        max_bytes: If all together are larger, the oldest are deleted: recordings first, and only
            if that is not enough the clips of alerts.

    Raises:
        OSError: If the folder cannot be made; also from ``tidy``.
    """

    def __init__(self, folder: Path, *, max_age_s: float, max_bytes: float) -> None:
        self.folder = folder
        self.alerts = folder / "alerts"
        self._max_age_s = max_age_s
        self._max_bytes = max_bytes

    def make(self) -> None:
        """Make the folder, readable for its owner alone."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.alerts.mkdir(mode=0o700, exist_ok=True)

    def recordings(self) -> list[Path]:
        """Return the recordings, the oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if _RECORDING.fullmatch(p.name))

    def new_recording(self, start: datetime) -> Path:
        """Return a name that is free for a recording that starts then."""
        stem = stamp(start)
        path = self.folder / f"{stem}.bdf"
        n = 1
        while path.exists():
            n += 1
            path = self.folder / f"{stem}-{n}.bdf"
        return path

    def evidence_stem(self, onset: datetime, alert_id: str) -> Path:
        """Return what the files of an alert's clip are called, without their endings."""
        short = re.sub(r"[^0-9a-z_-]", "_", alert_id.lower())[:8] or "alert"
        for known in self.alerts.glob(f"*-{short}.json"):
            said = known.read_text(encoding="utf-8", errors="replace") if known.is_file() else ""
            if f'"{alert_id}"' in said:
                return known.with_suffix("")
        return self.alerts / f"{stamp(onset)}-{short}"

    def mend(self) -> int:
        """Make the files that killed processes left exact, and return how many were not."""
        n_mended = 0
        for path in self.recordings():
            try:
                n_mended += mend(path)
            except (RecordingInvalidError, OSError) as error:
                LOG.warning("%s is left as it is: %s", path.name, error)
        for path in self.alerts.iterdir():
            if (found := _EVIDENCE.fullmatch(path.name)) and found[2]:
                path.unlink()
        return n_mended

    def tidy(self, *, keep: Path | None) -> list[Path]:
        """Delete what is too old or too much.

        Args:
            keep: The recording that is being written.

        Returns:
            What was deleted.
        """
        groups = [[path] for path in self.recordings() if path != keep]
        groups += self._evidence()
        sizes = [sum(path.stat().st_size for path in group) for group in groups]
        n_bytes = sum(sizes) + (keep.stat().st_size if keep and keep.exists() else 0)
        deleted: list[Path] = []
        for group, size in zip(groups, sizes, strict=True):
            age_s = time.time() - max(path.stat().st_mtime for path in group)
            if age_s > self._max_age_s or n_bytes > self._max_bytes:
                n_bytes -= size
                for path in group:
                    path.unlink(missing_ok=True)
                deleted += group
        if deleted:
            LOG.info("%d old file(s) of the recording deleted", len(deleted))
        return deleted

    def _evidence(self) -> list[list[Path]]:
        """Return the files of each clip, those of the oldest first."""
        groups: dict[str, list[Path]] = {}
        for path in self.alerts.iterdir():
            if found := _EVIDENCE.fullmatch(path.name):
                groups.setdefault(found[1], []).append(path)
        return [group for _, group in sorted(groups.items())]


def stamp(at: datetime) -> str:
    """Write an instant as part of a file's name, fit for every system.

    Example:
        >>> stamp(datetime(2026, 11, 24, 23, 0, 1, tzinfo=UTC))
        '2026-11-24T23-00-01Z'
    """
    return f"{at.astimezone(UTC):%Y-%m-%dT%H-%M-%SZ}"
