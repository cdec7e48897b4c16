// Causal filters in second-order sections, for many channels at once.

#pragma once

#include <cstdint>

namespace stream_classifier {

// Direct form II transposed, each section after the other, as scipy.signal.sosfilt does it.
// sections: (n_sections, 6), a0 = 1; state: (n_sections, 2, n_channels); x: (n, n_channels), replaced.
// Each channel's numbers are computed in one order, whatever lies beside it and however it is cut.
inline void filter_sections(const double* sections, int n_sections, double* state, double* x,
                            std::int64_t n, int n_channels) {
    for (std::int64_t i = 0; i < n; ++i, x += n_channels) {
        for (int s = 0; s < n_sections; ++s) {
            const double* c = sections + 6 * s;
            double* z = state + std::int64_t(2) * s * n_channels;
            for (int channel = 0; channel < n_channels; ++channel) {
                const double in = x[channel], out = c[0] * in + z[channel];
                z[channel] = c[1] * in - c[4] * out + z[n_channels + channel];
                z[n_channels + channel] = c[2] * in - c[5] * out;
                x[channel] = out;
            }
        }
    }
}

}  // namespace stream_classifier
