// The arithmetic of the engine, for one instruction set at a time.
//
// `kernels.inc` holds it once; `kernels.cpp` compiles it for each instruction set that the platform
// has, and `choose_kernels` picks one at run time. A product's terms are always added in one order,
// by one accumulator, whatever rows lie beside it: so results do not depend on the batch.

#pragma once

#include <cstdint>
#include <cstring>

namespace stream_classifier {

constexpr int MAX_WIDTH = 16;  // numbers in the widest vector

inline int padded(int n, int width) { return (n + width - 1) / width * width; }

// The 16 bits of the nearest bfloat16: of two as near, the even one. `x` is finite.
inline std::uint16_t bfloat16(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return std::uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// How many floats' room n numbers take as bfloat16: two of them lie in the place of each float.
inline int n_pairs(int n) { return (n + 1) / 2; }

// One row of a layer of the LSTM: a state that takes one step.
struct CellRow {
    const float* init;   // bias, or bias and input product, packed as the gates are
    const float* input;  // what the layer below gives; unused where `init` holds its product
    const float* h;      // hidden state before; both in pairs of bfloat16 where the kernels are
    float* c;            // cell state, changed in place
    float* h_out;        // hidden state after, not `h`: others still read that
    float* sum;          // sum and maximum of h_out so far, of the last layer; null: not kept
    float* max;
};

// Weights of one layer: by blocks of `width` units; within one, by row of the product, the four
// gates of these units side by side. The gates are scaled so that exp2 gives their exponentials.
// In bfloat16, a row of the product is one of pairs.
struct Cell {
    const float* w_input;  // null where `init` holds the input's product
    const float* w_hidden;
    int n_input;   // rows of its product
    int n_hidden;
    int n_blocks;
};

// One row of a product of a matrix: n numbers in, m numbers out.
struct DenseRow {
    const float* x;
    float* y;
};

// Weights of a product: by blocks of up to 4 vectors of columns, within one by row of the product.
struct Dense {
    const float* weights;
    const float* bias;  // padded to whole vectors
    int n;
    int m;
    bool relu;
};

struct Kernels {
    const char* name;
    int width;
    // Whether this processor has what the kernels need.
    bool (*available)();
    // n numbers to bfloat16, the last pair filled up with zero, as `cells` takes its inputs and
    // hidden states; null where it takes them as they are.
    void (*to_pairs)(const float* x, int n, float* pairs);
    // One step of `n_rows` states; `fresh`: from zero, h is not read.
    void (*cells)(const Cell&, const CellRow* rows, int n_rows, bool fresh);
    void (*dense)(const Dense&, const DenseRow* rows, int n_rows);
    // asinh(4 z) / 2 and asinh(16 (z - before)) / 2; n a multiple of the width.
    void (*features)(const float* z, const float* before, float* u, float* v, int n);
    // Mean and maximum over `n_rows` rows of a ring, oldest first; n a multiple of the width.
    void (*slide)(const float* ring, int oldest, int n_rows, int n_ring, int n, float* mean,
                  float* max);
    // Multiply and add for a while; returns how many operations that were.
    double (*busy)(std::int64_t n);
};

// All that were compiled, the widest first; null at the end.
extern const Kernels* const ALL_KERNELS[];

// Those with the LSTM's products in bfloat16, chosen by name only: by the processor's instruction;
// or, to test these where it has none, slowly by others, to the same bits.
extern const Kernels* const BFLOAT16_KERNELS[];
extern const Kernels* const EMULATED_KERNELS[];

// Kernels by name, or the widest that this processor has; null if there are none of that name.
const Kernels* choose_kernels(const char* name);

}  // namespace stream_classifier
