"""Whether a bundle, on this machine and engine, still says what it said when it was made."""

from __future__ import annotations

from typing import Final

import numpy as np

from stream_classifier.bundle import Bundle
from stream_classifier.engines.reference import Build, ReferenceEngine, classify_windows

TOLERANCE: Final = 1e-5
"""Of a probability. Engines differ in rounding by about 1e-6; a wrong weight by far more."""


def selftest_deviation(bundle: Bundle, *, build: Build = ReferenceEngine) -> float:
    """Classify the bundle's own windows; return how far off the worst probability is.

    Nothing is wrong with a bundle, or the engine that ``build`` makes, that stays within
    ``TOLERANCE``.
    """
    found = classify_windows(bundle, bundle.selftest_windows, build=build)
    return float(np.abs(found - bundle.selftest_probabilities).max())
