// The LSTM over sliding windows for many streams: staggered states, or one that runs on.
//
// docs/engine.md explains the algorithm, with a picture. In one paragraph: a *lane* is one channel
// of one stream. Windows of a lane overlap, and each starts from zero state, so a lane carries one
// LSTM state (a *slot*) for every window that has begun, and each step advances all of them. The
// stem and its product with the LSTM's input weights are shared by all windows. In continuous mode
// a lane has one state that runs on, and a ring of its newest hidden states.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <unordered_map>
#include <vector>

#include "kernels.h"

namespace stream_classifier {

constexpr int MAX_CONVS = 8;
constexpr int MAX_LANES = 65536;
constexpr int MAX_THREADS = 256;
// Of one run, with room to count on.
constexpr std::int64_t MAX_STEPS = std::int64_t(1) << 53;

// Numbers at an address that is a multiple of a cache line; zero at first.
class Floats {
   public:
    Floats() = default;
    explicit Floats(std::size_t n) : n_(n) {
        const std::size_t bytes = (n * sizeof(float) + 63) / 64 * 64;
        data_.reset(static_cast<float*>(std::aligned_alloc(64, bytes ? bytes : 64)));
        if (!data_) throw std::bad_alloc();
        for (std::size_t i = 0; i < n; ++i) data_[i] = 0;
    }
    float* data() { return data_.get(); }
    const float* data() const { return data_.get(); }
    float& operator[](std::size_t i) { return data_[i]; }
    std::size_t size() const { return n_; }

   private:
    struct Free {
        void operator()(float* p) const { std::free(p); }
    };
    std::unique_ptr<float[], Free> data_;
    std::size_t n_ = 0;
};

// What the engine runs: shapes, weights as a bundle has them, and the plan of steps and decisions.
struct Network {
    struct Conv {
        int channels, kernel, stride;
        std::vector<float> weight, bias;  // (channels, inputs, kernel), (channels)
    };
    struct Layer {
        std::vector<float> w_input, w_hidden, bias;  // (4H, inputs), (4H, H), (4H); i, f, g, o
    };
    bool asinh;  // two features of a sample, else the sample itself
    std::vector<Conv> convs;
    std::vector<Layer> layers;
    int hidden;
    std::vector<float> head, head_bias;  // (outputs, 3H), (outputs)
    std::vector<int> output_classes;
    int n_classes;

    bool is_windowed;
    int lead_samples;
    int n_steps;
    int steps_per_hop;
    int n_states;

    int n_features() const { return asinh ? 2 : 1; }
};

// New samples of one stream, and where its decisions go.
struct Fed {
    std::int64_t stream;
    const float* samples;  // (n, lanes)
    std::int64_t n;
    float* decided;  // (n_due, lanes, classes)
};

// All that a stream carries, in the order and shapes of engines/snapshot.py, unpadded.
struct Snapshot {
    int n_lanes;
    int n_skipped;
    std::int64_t n_steps;
    std::vector<int> n_waiting;  // by convolution
    std::vector<std::vector<float>> arrays;
};

class Engine {
   public:
    Engine(const Network& network, const Kernels& kernels, int n_threads);
    ~Engine();

    std::int64_t open(int n_lanes);
    void reset(std::int64_t stream);
    void close(std::int64_t stream);
    bool has(std::int64_t stream) const { return streams_.count(stream) != 0; }
    int n_lanes(std::int64_t stream) const;
    int n_classes() const { return net_.n_classes; }

    // Decisions that so many more samples bring.
    std::int64_t n_due(std::int64_t stream, std::int64_t n_samples) const;

    // Take new samples, each stream at most once. Of the last step of each stream that finishes a
    // window only that window is advanced: the others are put off to catch_up, or the next feed.
    void feed(const Fed* fed, std::size_t n_fed);
    void catch_up();

    Snapshot snapshot(std::int64_t stream);
    // The arrays must have the sizes that `array_sizes` gives for its counts.
    std::int64_t restore(Snapshot& snapshot);
    std::vector<std::size_t> array_sizes(const Snapshot& of) const;

   private:
    struct Stream;
    struct Lane;
    struct Scratch;
    struct Moving;
    struct Conv {
        int channels, kernel, stride, inputs;
        std::size_t waiting_at;  // within a lane's waiting inputs
        int max_inputs;          // in one block of samples, waiting ones included
        Floats weights, bias;
        Dense dense;
    };
    struct Layer {
        Floats w_input, w_hidden, bias;
        Cell cell;
    };

    Floats pack_gates(const std::vector<float>& w, int n) const;
    Floats pack_pairs(const Floats& gates, int n) const;
    Floats pack_columns(const std::vector<float>& w, int n, int m) const;
    std::unique_ptr<Stream> make_stream(int n_lanes) const;
    void clear(Stream& s) const;
    std::int64_t steps_after(const Stream& s, std::int64_t n_samples) const;
    std::int64_t windows_after(std::int64_t n_steps) const;
    float* state_of(const Stream& s, int lane, std::int64_t slot) const;
    float* hidden_of(float* state, int layer, std::int64_t step) const;

    void run(std::vector<Lane>& lanes);
    void run_tile(Lane* lanes, int n_lanes, Scratch& scratch) const;
    void see(Lane* lanes, int n_lanes, std::int64_t done, Scratch& scratch) const;
    void rest_of_last_step(Lane* lanes, int n_lanes, Scratch& scratch) const;
    void place(Lane& lane) const;
    void gather(Lane& lane, const float* input, Scratch& scratch) const;
    void gather_windows(const Lane& lane, std::int64_t step, std::int64_t first, int slot,
                        const float* input, float* decided, Scratch& scratch) const;
    void advance(Scratch& scratch) const;
    void decide(Scratch& scratch) const;
    void transfer(Stream& s, Snapshot& snapshot, bool to_stream) const;

    Network net_;
    const Kernels& kernels_;
    int n_threads_;
    int hidden_;          // units, padded to whole vectors
    int inputs_;          // of the first layer
    int block_samples_;   // samples worked through at a time
    int block_steps_;     // steps that these can make
    int tile_lanes_;      // lanes worked through together, so that their states stay in cache
    int ring_;            // hidden states kept, continuous
    std::size_t state_floats_, lane_floats_, waiting_floats_;
    std::vector<Conv> convs_;
    std::vector<Layer> layers_;
    Floats input_weights_, input_bias_;  // of the first layer, as a product of its own: windowed
    Dense input_product_;
    Floats head_weights_, head_bias_;
    Dense head_;
    std::unordered_map<std::int64_t, std::unique_ptr<Stream>> streams_;
    std::int64_t next_ = 0;
    std::vector<std::unique_ptr<Scratch>> scratch_;  // one a thread
};

}  // namespace stream_classifier
