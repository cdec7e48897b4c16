"""Names of electrodes, for devices that say only how many channels they have."""

from __future__ import annotations

from typing import Final

_TEN_TWENTY: Final = "Cz C3 C4 F3 F4 P3 P4 O1 O2 F7 F8 T7 T8 P7 P8 Fp1 Fp2 Fz Pz"
_TEN_TEN: Final = (
    "AF7 AF3 AFz AF4 AF8 F5 F1 F2 F6 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 C5 C1 C2 C6 TP7 CP5 CP3 "
    "CP1 CPz CP2 CP4 CP6 TP8 P5 P1 P2 P6 PO7 PO3 POz PO4 PO8 Oz F9 F10 TP9 TP10"
)
POSITIONS: Final = (*_TEN_TWENTY.split(), *_TEN_TEN.split())
"""The 19 of the international 10-20 system, central ones first, so that a small montage is a
sensible one; then those of the 10-10 system (Oostenveld & Praamstra, Clin. Neurophysiol. 112,
713-719, 2001) up to the usual 64."""

MAX_CHANNELS: Final = len(POSITIONS)


def labels(channels: str) -> tuple[str, ...]:
    """Read a choice of channels.

    Args:
        channels: A count (``8``) or labels (``C3,C4,Cz``).

    Raises:
        ValueError: If there are none, more than 64, or two of one name.

    Example:
        >>> labels("3"), labels("Fp1, Fp2")
        (('Cz', 'C3', 'C4'), ('Fp1', 'Fp2'))
    """
    text = channels.strip()
    if text.isdecimal():
        count = int(text)
        if not 1 <= count <= MAX_CHANNELS:
            raise ValueError(f"expected 1 to {MAX_CHANNELS} channels, found {count}")
        return POSITIONS[:count]
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) != len(names) or len(names) > MAX_CHANNELS:
        raise ValueError(
            f"expected a count, or 1 to {MAX_CHANNELS} different labels like C3,C4, "
            f"found {channels!r}"
        )
    return names


def numbered(count: int) -> tuple[str, ...]:
    """Labels that claim no position, for the data set, which names none.

    Example:
        >>> numbered(2)
        ('EEG1', 'EEG2')
    """
    return tuple(f"EEG{number}" for number in range(1, count + 1))
