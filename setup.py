"""The native engine, an optional extension: without a compiler the package installs without it."""

import sys

from setuptools import Extension, setup

HERE = "stream_classifier/engines/cpp"

native = Extension(
    "stream_classifier.engines._native",
    sources=[f"{HERE}/{name}.cpp" for name in ("module", "engine", "kernels")],
    depends=[f"{HERE}/{name}" for name in ("engine.h", "filters.h", "kernels.h", "kernels.inc")],
    define_macros=[("Py_LIMITED_API", "0x030B0000")],
    py_limited_api=True,
    extra_compile_args=[
        "-std=c++17",
        "-O3",
        # Sums keep their order (no -ffast-math); kernels.cpp says how products are added to them.
        # So that a comparison and a choice become one operation: min, max. Nothing here is NaN.
        "-ffinite-math-only",
        "-fno-signed-zeros",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        "-Wno-psabi",  # vectors are passed between inlined functions only
    ],
    extra_link_args=["-pthread"] if sys.platform.startswith("linux") else [],
    optional=True,
)

setup(ext_modules=[native])
