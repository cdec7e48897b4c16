"""The scaler is frozen."""

import numpy as np
import pytest

from stream_classifier.detection.scaler import FrozenScaler


def test_what_was_seen_never_changes_what_comes_out():
    scaler = FrozenScaler(mean_uv=-7.5, std_uv=165.0)
    before = scaler.scale(np.float32([[100.0]]))
    scaler.scale(np.full((1000, 1), 1e5, np.float32))
    assert scaler.scale(np.float32([[100.0]])) == before == np.float32(107.5) / np.float32(165)


@pytest.mark.parametrize(("mean", "std"), [(0, 0), (0, -1), (np.nan, 1), (0, np.inf)])
def test_constants_that_cannot_scale_are_refused(mean, std):
    with pytest.raises(ValueError, match="std > 0"):
        FrozenScaler(mean_uv=mean, std_uv=std)
