"""What is measured, against whom: ``python -m benchmarks engine --json``.

Speed is never tested (a busy machine is not a wrong program); it is measured here, as ratios
from one interleaved run.
"""
