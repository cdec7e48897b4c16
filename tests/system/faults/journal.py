"""Our command, and every chunk of samples that it accepted, written down for an offline replay."""

import os
import sys
from pathlib import Path

import numpy as np

from stream_classifier.cli import main
from stream_classifier.signals import Chunk
from stream_classifier.sources.lsl import LslSource

JOURNAL = "TEST_JOURNAL"


def written_down(read):
    """An iterator of chunks that are on disk before they are handed on."""

    def iterate(source):
        with Path(os.environ[JOURNAL]).open("ab") as file:
            for chunk in read(source):
                if chunk is not None:
                    np.save(file, chunk.samples)
                    times = (chunk.origin_s, chunk.received_s, chunk.anchor_s)
                    np.save(file, np.array([chunk.first_index, *times], np.float64))
                    file.flush()
                yield chunk

    return iterate


def chunks_of(path):
    """What was accepted, as it was; a last chunk that is half written is left out."""
    chunks = []
    with path.open("rb") as file:
        while True:
            try:
                samples, facts = np.load(file), np.load(file)
            except (EOFError, ValueError):
                return chunks
            first_index, *times = facts.tolist()
            chunks.append(Chunk(samples, int(first_index), *times))


if __name__ == "__main__":
    LslSource.__iter__ = written_down(LslSource.__iter__)
    sys.exit(main())
