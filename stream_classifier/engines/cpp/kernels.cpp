// The kernels, compiled once for each instruction set.
//
// `target_clones` would be shorter, but cannot change the width of a vector, and with GCC 12 its
// "avx2" has no fused multiply-add. So the compiler is told the target of a stretch of source.

#include "kernels.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

// A product and a sum in one statement become one operation wherever they stand: GCC's way without
// a word. Told -ffp-contract=fast, clang looks for them in its instructions, also across statements
// and in (x + 1) y; what it finds differs from copy to copy, and rows would round by their place.
#if defined(__clang__)
#pragma clang fp contract(on)
#endif

#if defined(__x86_64__)

#define VECTOR_REGISTER "v"
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
#endif
#define NAMESPACE avx512
#define NAME "AVX-512"
#define WIDTH 16
#define ROWS 6
#define TOGETHER 2
#define HAS_SCALEF 1
#define AVAILABLE                                                            \
    (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && \
     __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
// Older compilers, and the assemblers they came with, do not know it.
#if __GNUC__ >= 10 || __clang_major__ >= 10
#define HAS_AVX512_BF16 1
#define BFLOAT16_AVAILABLE __builtin_cpu_supports("avx512bf16")
#endif
#include "kernels.inc"
#undef NAMESPACE
#undef NAME
#undef WIDTH
#undef ROWS
#undef HAS_SCALEF
#undef TOGETHER
#undef AVAILABLE
#undef VECTOR_REGISTER
#undef BFLOAT16_AVAILABLE
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define VECTOR_REGISTER "x"
#define NAMESPACE avx2
#define NAME "AVX2"
#define WIDTH 8
#define ROWS 3
#define TOGETHER 1
#define AVAILABLE (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#include "kernels.inc"
#undef NAMESPACE
#undef NAME
#undef WIDTH
#undef ROWS
#undef TOGETHER
#undef AVAILABLE
#undef VECTOR_REGISTER
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#define VECTOR_REGISTER "x"
#define ROWS 3
#define TOGETHER 1
#elif defined(__aarch64__)
#define VECTOR_REGISTER "w"
#define ROWS 6  // 32 vector registers
#define TOGETHER 2
#else
#error "no kernels for this processor"
#endif

// What every processor of the platform has.
#define NAMESPACE baseline
#define NAME "baseline"
#define WIDTH 4
#define AVAILABLE true
#include "kernels.inc"

namespace stream_classifier {

const Kernels* const ALL_KERNELS[] = {
#if defined(__x86_64__)
    &avx512::KERNELS, &avx2::KERNELS,
#endif
    &baseline::KERNELS, nullptr};

const Kernels* const BFLOAT16_KERNELS[] = {
#if HAS_AVX512_BF16
    &avx512::BFLOAT16,
#endif
    nullptr};

const Kernels* const EMULATED_KERNELS[] = {
#if defined(__x86_64__)
    &avx512::EMULATED, &avx2::EMULATED,
#endif
    &baseline::EMULATED, nullptr};

const Kernels* choose_kernels(const char* name) {
    for (const Kernels* const* k = ALL_KERNELS; *k; ++k)
        if (name ? std::strcmp((*k)->name, name) == 0 : (*k)->available()) return *k;
    const Kernels* const* const by_name_only[] = {BFLOAT16_KERNELS, EMULATED_KERNELS};
    for (const Kernels* const* k : by_name_only)
        for (; name && *k; ++k)
            if (std::strcmp((*k)->name, name) == 0) return *k;
    return nullptr;
}

}  // namespace stream_classifier
