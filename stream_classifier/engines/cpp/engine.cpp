#include "engine.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <thread>

namespace stream_classifier {

namespace {

// A tile's states should stay in the second-level cache: 1 to 2 kB a row, with a ring 6 kB.
constexpr int TILE_ROWS = 96;
constexpr int MAX_TILE_LANES = 96;
constexpr int BLOCK_STEPS = 8;
// Below this many tiles a thread costs more than it saves.
constexpr std::size_t TILES_A_THREAD = 2;

std::int64_t outputs_of(const Network::Conv& conv, std::int64_t n_inputs) {
    return n_inputs < conv.kernel ? 0 : (n_inputs - conv.kernel) / conv.stride + 1;
}

}  // namespace

// One stream between two calls. Counts are of the run; all lanes are at the same sample.
struct Engine::Stream {
    int n_lanes;
    int n_skipped;            // samples before the first step's, left out so far
    std::int64_t n_steps;     // steps done
    bool lags;                // the last step has been done for the finished window only
    std::vector<int> n_waiting;  // by convolution
    Floats previous;          // (lanes)
    Floats waiting;           // (lanes, waiting_floats): by convolution, inputs still needed
    Floats states;            // (lanes, lane_floats)
    Floats lagging_input;     // (lanes, 4 hidden): the last step's input product, while it lags
};

// One channel of a stream in one call of feed, with counts of its own: lanes of one stream may be
// in different tiles, on different threads.
struct Engine::Lane {
    Stream* stream;
    int lane;
    const float* z;
    std::int64_t n;
    float* decided;
    std::int64_t n_decided;
    int n_skipped;
    std::int64_t n_steps;
    bool lags;
    int n_waiting[MAX_CONVS];
    // Where the run stands; counted along, since divisions are dear.
    std::int64_t first;        // oldest window under way, or begun next
    std::int64_t n_begun;      // windows begun
    std::int64_t finishes_at;  // steps done when the oldest is finished
    std::int64_t begins_at;    // step with which the next begins
    int first_slot;            // of the oldest
    int newest;                // place in the ring of the newest hidden state
    // Of the block of samples being worked through:
    int n_new;      // features
    int n_inputs;   // of the LSTM: steps to do
    float* inputs;  // (steps, inputs)
};

// A state that takes a step.
struct Engine::Moving {
    float* state;
    const float* input;  // of the first layer: its product where windowed
    float* h_before;     // of the last layer
    float* h_after;
    int parity;      // which of its two places a hidden state is in after this step
    float* decided;  // where the window's decision goes, if this step finishes one
    int newest;      // place in the ring
};

struct Engine::Scratch {
    Floats now, before, u, v;      // (tile lanes x block samples)
    Floats inputs;                 // (tile lanes, block steps, inputs of the LSTM)
    Floats products;               // (tile lanes, block steps, 4 hidden)
    std::vector<DenseRow> dense;
    std::vector<Moving> moving, fresh;
    std::vector<CellRow> rows;
    Floats pairs;                  // inputs and hidden states of `rows`, in bfloat16
    std::vector<const Moving*> finished;
    Floats readouts;               // (tile lanes, 3 hidden)
    Floats logits;                 // (tile lanes, outputs)
};

Engine::Engine(const Network& network, const Kernels& kernels, int n_threads)
    : net_(network), kernels_(kernels), n_threads_(std::max(1, n_threads)) {
    const int width = kernels.width, H = net_.hidden;
    hidden_ = padded(H, width);

    int inputs = net_.n_features(), stride = 1;
    for (const Network::Conv& conv : net_.convs) stride *= conv.stride;
    block_samples_ = BLOCK_STEPS * stride;
    int arriving = block_samples_;
    waiting_floats_ = 0;
    convs_.reserve(net_.convs.size());  // their products point into them
    for (const Network::Conv& conv : net_.convs) {
        Conv& c = convs_.emplace_back();
        c.channels = conv.channels;
        c.kernel = conv.kernel;
        c.stride = conv.stride;
        c.inputs = inputs;
        c.max_inputs = conv.kernel - 1 + arriving;
        c.waiting_at = waiting_floats_;
        waiting_floats_ += std::size_t(c.max_inputs) * inputs;
        arriving = int(outputs_of(conv, c.max_inputs));
        // (out, in, kernel) -> (kernel, in, out): the inputs of one output lie side by side.
        std::vector<float> w(std::size_t(conv.kernel) * inputs * conv.channels);
        for (int out = 0; out < conv.channels; ++out)
            for (int in = 0; in < inputs; ++in)
                for (int k = 0; k < conv.kernel; ++k)
                    w[(std::size_t(k) * inputs + in) * conv.channels + out] =
                        conv.weight[(std::size_t(out) * inputs + in) * conv.kernel + k];
        c.weights = pack_columns(w, conv.kernel * inputs, conv.channels);
        c.bias = Floats(padded(conv.channels, width));
        std::copy(conv.bias.begin(), conv.bias.end(), c.bias.data());
        c.dense = {c.weights.data(), c.bias.data(), conv.kernel * inputs, conv.channels, true};
        inputs = conv.channels;
    }
    inputs_ = inputs;
    block_steps_ = arriving;

    layers_.reserve(net_.layers.size());
    for (const Network::Layer& layer : net_.layers) {
        Layer& l = layers_.emplace_back();
        l.w_input = pack_gates(layer.w_input, inputs);
        l.w_hidden = pack_gates(layer.w_hidden, H);
        l.bias = pack_gates(layer.bias, 1);
        const bool is_shared = net_.is_windowed && layers_.size() == 1;
        if (kernels.to_pairs) {
            if (!is_shared) l.w_input = pack_pairs(l.w_input, inputs);
            l.w_hidden = pack_pairs(l.w_hidden, H);
        }
        l.cell = {is_shared ? nullptr : l.w_input.data(), l.w_hidden.data(),
                  kernels.to_pairs ? n_pairs(inputs) : inputs, kernels.to_pairs ? n_pairs(H) : H,
                  hidden_ / width};
        inputs = H;
    }
    if (net_.is_windowed) {
        // The same weights as columns of one product: blocks of gates are 4 vectors wide already.
        input_product_ = {layers_[0].w_input.data(), layers_[0].bias.data(), inputs_, 4 * hidden_,
                          false};
    }

    const int n_outputs = int(net_.output_classes.size());
    std::vector<float> head(std::size_t(3) * hidden_ * n_outputs);
    for (int out = 0; out < n_outputs; ++out)
        for (int part = 0; part < 3; ++part)
            for (int unit = 0; unit < H; ++unit)
                head[(std::size_t(part) * hidden_ + unit) * n_outputs + out] =
                    net_.head[(std::size_t(out) * 3 + part) * H + unit];
    head_weights_ = pack_columns(head, 3 * hidden_, n_outputs);
    head_bias_ = Floats(padded(n_outputs, width));
    std::copy(net_.head_bias.begin(), net_.head_bias.end(), head_bias_.data());
    head_ = {head_weights_.data(), head_bias_.data(), 3 * hidden_, n_outputs, false};

    // A state: two hidden states (before and after) and a cell state a layer, then sum and maximum.
    const std::size_t n_layers = layers_.size(), unit = std::size_t(hidden_);
    ring_ = net_.n_steps + 1;  // a window's, and one to write to while others are read
    state_floats_ = n_layers * 3 * unit + (net_.is_windowed ? 2 * unit : ring_ * unit);
    lane_floats_ = state_floats_ * net_.n_states;
    tile_lanes_ = std::max(1, std::min(MAX_TILE_LANES, TILE_ROWS / net_.n_states));

    for (int t = 0; t < n_threads_; ++t) {
        auto s = std::make_unique<Scratch>();
        const std::size_t flat = padded(tile_lanes_ * block_samples_, MAX_WIDTH);
        s->now = Floats(flat);
        s->before = Floats(flat);
        s->u = Floats(flat);
        s->v = Floats(flat);
        s->inputs = Floats(std::size_t(tile_lanes_) * block_steps_ * inputs_);
        if (net_.is_windowed)
            s->products = Floats(std::size_t(tile_lanes_) * block_steps_ * 4 * hidden_);
        const std::size_t n_rows = std::size_t(tile_lanes_) * net_.n_states;
        s->dense.resize(std::size_t(tile_lanes_) * std::max(block_samples_, block_steps_));
        s->moving.reserve(n_rows);
        s->fresh.reserve(n_rows);
        s->rows.resize(n_rows);
        if (kernels.to_pairs) s->pairs = Floats(n_rows * (n_pairs(std::max(inputs_, H)) + n_pairs(H)));
        s->finished.reserve(tile_lanes_);
        s->readouts = Floats(std::size_t(tile_lanes_) * 3 * hidden_);
        s->logits = Floats(std::size_t(tile_lanes_) * n_outputs);
        scratch_.push_back(std::move(s));
    }
}

Engine::~Engine() = default;

// (4H, n) with gates i, f, g, o -> by block of `width` units, by input, the gates side by side;
// scaled, so that 2 to the result is exp(-i), exp(-f), exp(-2g), exp(-o).
Floats Engine::pack_gates(const std::vector<float>& w, int n) const {
    const int width = kernels_.width, H = net_.hidden;
    Floats packed(std::size_t(4) * hidden_ * n);
    const double log2_e = 1.4426950408889634;
    for (int gate = 0; gate < 4; ++gate) {
        const double scale = gate == 2 ? -2 * log2_e : -log2_e;
        for (int unit = 0; unit < H; ++unit)
            for (int k = 0; k < n; ++k) {
                const std::size_t block = unit / width, place = unit % width;
                packed[((block * n + k) * 4 + gate) * width + place] =
                    float(scale * w[(std::size_t(gate) * H + unit) * n + k]);
            }
    }
    return packed;
}

// Packed gates -> the same in bfloat16: two rows become one of pairs, the last one with zeros.
Floats Engine::pack_pairs(const Floats& gates, int n) const {
    const int row = 4 * kernels_.width;
    Floats packed(std::size_t(4) * hidden_ * n_pairs(n));
    for (int block = 0; block < hidden_ / kernels_.width; ++block)
        for (int k = 0; k < n; k += 2)
            for (int i = 0; i < row; ++i) {
                const float* first = gates.data() + (std::size_t(block) * n + k) * row + i;
                const std::uint16_t pair[2] = {bfloat16(first[0]),
                                               k + 1 < n ? bfloat16(first[row]) : std::uint16_t(0)};
                float* to = packed.data() + (std::size_t(block) * n_pairs(n) + k / 2) * row + i;
                std::memcpy(to, pair, sizeof pair);
            }
    return packed;
}

// (n, m) -> by blocks of up to 4 vectors of columns, by row.
Floats Engine::pack_columns(const std::vector<float>& w, int n, int m) const {
    const int width = kernels_.width, total = padded(m, width);
    Floats packed(std::size_t(n) * total);
    std::size_t at = 0;
    for (int start = 0; start < total; start += 4 * width) {
        const int size = std::min(4 * width, total - start);
        for (int k = 0; k < n; ++k, at += size)
            for (int i = 0; i < size && start + i < m; ++i)
                packed[at + i] = w[std::size_t(k) * m + start + i];
    }
    return packed;
}

std::unique_ptr<Engine::Stream> Engine::make_stream(int n_lanes) const {
    auto s = std::make_unique<Stream>();
    s->n_lanes = n_lanes;
    s->n_waiting.resize(convs_.size());
    s->previous = Floats(n_lanes);
    s->waiting = Floats(waiting_floats_ * n_lanes);
    s->states = Floats(lane_floats_ * n_lanes);
    if (net_.is_windowed) s->lagging_input = Floats(std::size_t(4) * hidden_ * n_lanes);
    clear(*s);
    return s;
}

// To a stream that has seen nothing: states, too, so that its snapshot says the same.
void Engine::clear(Stream& s) const {
    s.n_skipped = 0;
    s.n_steps = 0;
    s.lags = false;
    std::fill(s.n_waiting.begin(), s.n_waiting.end(), 0);
    for (Floats* part : {&s.previous, &s.states})
        std::fill(part->data(), part->data() + part->size(), 0.0f);
}

std::int64_t Engine::open(int n_lanes) {
    streams_.emplace(next_, make_stream(n_lanes));
    return next_++;
}

void Engine::reset(std::int64_t stream) { clear(*streams_.at(stream)); }

void Engine::close(std::int64_t stream) { streams_.erase(stream); }

int Engine::n_lanes(std::int64_t stream) const { return streams_.at(stream)->n_lanes; }

std::int64_t Engine::steps_after(const Stream& s, std::int64_t n_samples) const {
    std::int64_t n = n_samples - std::min<std::int64_t>(n_samples, net_.lead_samples - s.n_skipped);
    for (std::size_t i = 0; i < convs_.size(); ++i)
        n = outputs_of(net_.convs[i], s.n_waiting[i] + n);
    return n;
}

std::int64_t Engine::windows_after(std::int64_t n_steps) const {
    return n_steps < net_.n_steps ? 0 : (n_steps - net_.n_steps) / net_.steps_per_hop + 1;
}

std::int64_t Engine::n_due(std::int64_t stream, std::int64_t n_samples) const {
    const Stream& s = *streams_.at(stream);
    return windows_after(s.n_steps + steps_after(s, n_samples)) - windows_after(s.n_steps);
}

float* Engine::state_of(const Stream& s, int lane, std::int64_t slot) const {
    return const_cast<float*>(s.states.data()) + lane_floats_ * lane + state_floats_ * slot;
}

// Where the hidden state after a step lies: in turn in one of two places, so that units that
// are not done yet still read the old one; of the last layer, continuous: in the ring.
float* Engine::hidden_of(float* state, int layer, std::int64_t step) const {
    if (!net_.is_windowed && layer + 1 == int(layers_.size()))
        return state + layers_.size() * 3 * hidden_ + std::size_t(step % ring_) * hidden_;
    return state + (std::size_t(layer) * 3 + (step & 1)) * hidden_;
}

void Engine::feed(const Fed* fed, std::size_t n_fed) {
    std::vector<Lane> lanes;
    std::size_t n_lanes = 0;
    for (std::size_t i = 0; i < n_fed; ++i) n_lanes += streams_.at(fed[i].stream)->n_lanes;
    lanes.reserve(n_lanes);
    for (std::size_t i = 0; i < n_fed; ++i) {
        Stream& s = *streams_.at(fed[i].stream);
        for (int lane = 0; lane < s.n_lanes; ++lane) {
            Lane& l = lanes.emplace_back();
            l.stream = &s;
            l.lane = lane;
            l.z = fed[i].samples + lane;
            l.n = fed[i].n;
            l.decided = fed[i].decided + std::size_t(lane) * net_.n_classes;
            l.n_decided = 0;
            place(l);
        }
    }
    run(lanes);
}

void Engine::catch_up() {
    std::vector<Lane> lanes;
    for (auto& entry : streams_)
        for (int lane = 0; entry.second->lags && lane < entry.second->n_lanes; ++lane) {
            Lane& l = lanes.emplace_back(Lane{});
            l.stream = entry.second.get();
            l.lane = lane;
            place(l);
        }
    run(lanes);
}

// Take over where a lane's stream stands.
void Engine::place(Lane& l) const {
    const Stream& s = *l.stream;
    l.n_skipped = s.n_skipped;
    l.n_steps = s.n_steps;
    l.lags = s.lags;
    std::copy(s.n_waiting.begin(), s.n_waiting.end(), l.n_waiting);
    l.first = windows_after(s.n_steps);
    l.n_begun = s.n_steps ? (s.n_steps - 1) / net_.steps_per_hop + 1 : 0;
    l.finishes_at = net_.n_steps + l.first * net_.steps_per_hop;
    l.begins_at = l.n_begun * net_.steps_per_hop;
    l.first_slot = int(l.first % net_.n_states);
    l.newest = int((s.n_steps + ring_ - 1) % ring_);
}

void Engine::run(std::vector<Lane>& lanes) {
    const std::size_t n_tiles = (lanes.size() + tile_lanes_ - 1) / tile_lanes_;
    std::atomic<std::size_t> next{0};
    auto work = [&](Scratch& scratch) {
        for (std::size_t tile; (tile = next++) < n_tiles;) {
            const std::size_t start = tile * tile_lanes_;
            const std::size_t n = std::min<std::size_t>(tile_lanes_, lanes.size() - start);
            run_tile(lanes.data() + start, int(n), scratch);
        }
    };
    const std::size_t n_threads = std::min<std::size_t>(n_threads_, n_tiles / TILES_A_THREAD);
    std::vector<std::thread> helpers;
    for (std::size_t t = 1; t < n_threads; ++t) {
        try {
            helpers.emplace_back(work, std::ref(*scratch_[t]));
        } catch (const std::system_error&) {
            break;  // the system gives no more threads: those there are do the work
        }
    }
    work(*scratch_[0]);
    for (std::thread& helper : helpers) helper.join();
    for (const Lane& l : lanes) {
        if (l.lane + 1 != l.stream->n_lanes) continue;
        Stream& s = *l.stream;
        s.n_skipped = l.n_skipped;
        s.n_steps = l.n_steps;
        s.lags = l.lags;
        std::copy(l.n_waiting, l.n_waiting + convs_.size(), s.n_waiting.begin());
    }
}

void Engine::run_tile(Lane* lanes, int n_lanes, Scratch& scratch) const {
    rest_of_last_step(lanes, n_lanes, scratch);
    std::int64_t longest = 0;
    for (int i = 0; i < n_lanes; ++i) longest = std::max(longest, lanes[i].n);
    for (std::int64_t done = 0; done < longest; done += block_samples_) {
        see(lanes, n_lanes, done, scratch);
        int n_steps = 0;
        for (int i = 0; i < n_lanes; ++i) n_steps = std::max(n_steps, lanes[i].n_inputs);
        for (int step = 0; step < n_steps; ++step) {
            scratch.moving.clear();
            scratch.fresh.clear();
            for (int i = 0; i < n_lanes; ++i) {
                Lane& l = lanes[i];
                if (step >= l.n_inputs) continue;
                const float* input =
                    net_.is_windowed
                        ? scratch.products.data() +
                              (std::size_t(i) * block_steps_ + step) * 4 * hidden_
                        : l.inputs + std::size_t(step) * inputs_;
                // The last step of the call: what is decided now is all that anybody waits for.
                const bool is_last = done + block_samples_ >= l.n && step + 1 == l.n_inputs;
                l.lags = is_last && net_.is_windowed && l.n_steps + 1 == l.finishes_at;
                if (l.lags)
                    std::memcpy(l.stream->lagging_input.data() + std::size_t(l.lane) * 4 * hidden_,
                                input, sizeof(float) * 4 * hidden_);
                gather(l, input, scratch);
            }
            advance(scratch);
            decide(scratch);
        }
    }
}

// What the last call put off: its last step, for all windows but the one that it finished.
void Engine::rest_of_last_step(Lane* lanes, int n_lanes, Scratch& scratch) const {
    scratch.moving.clear();
    scratch.fresh.clear();
    for (int i = 0; i < n_lanes; ++i) {
        Lane& l = lanes[i];
        if (!l.lags) continue;
        const float* input =
            l.stream->lagging_input.data() + std::size_t(l.lane) * 4 * hidden_;
        l.lags = false;
        gather_windows(l, l.n_steps - 1, l.first, l.first_slot, input, nullptr, scratch);
    }
    advance(scratch);
}

// From samples to the LSTM's inputs, for one block of samples of each lane of a tile.
void Engine::see(Lane* lanes, int n_lanes, std::int64_t done, Scratch& scratch) const {
    const int n_features = net_.n_features(), n_convs = int(convs_.size());
    // Where the inputs of a convolution lie, the waiting ones first; or those of the LSTM.
    auto inputs_at = [&](const Lane& l, int i, int conv) {
        return conv < n_convs ? l.stream->waiting.data() + waiting_floats_ * l.lane +
                                    convs_[conv].waiting_at
                              : scratch.inputs.data() + std::size_t(i) * block_steps_ * inputs_;
    };
    int n_flat = 0;
    for (int i = 0; i < n_lanes; ++i) {
        Lane& l = lanes[i];
        Stream& s = *l.stream;
        float& previous = s.previous[l.lane];
        std::int64_t n = std::min<std::int64_t>(block_samples_, std::max<std::int64_t>(0, l.n - done));
        const float* z = l.z + done * s.n_lanes;
        const std::int64_t n_left_out = std::min<std::int64_t>(n, net_.lead_samples - l.n_skipped);
        if (n_left_out > 0) {
            previous = z[(n_left_out - 1) * s.n_lanes];
            l.n_skipped += int(n_left_out);
            z += n_left_out * s.n_lanes;
            n -= n_left_out;
        }
        l.n_new = int(n);
        for (std::int64_t k = 0; k < n; ++k, ++n_flat, z += s.n_lanes) {
            scratch.now[n_flat] = *z;
            scratch.before[n_flat] = previous;
            previous = *z;
        }
    }
    if (net_.asinh) {
        for (int i = n_flat; i < padded(n_flat, kernels_.width); ++i)
            scratch.now[i] = scratch.before[i] = 0;
        kernels_.features(scratch.now.data(), scratch.before.data(), scratch.u.data(),
                          scratch.v.data(), padded(n_flat, kernels_.width));
    }
    n_flat = 0;
    for (int i = 0; i < n_lanes; ++i) {
        Lane& l = lanes[i];
        float* to = inputs_at(l, i, 0) + (n_convs ? l.n_waiting[0] * n_features : 0);
        for (int k = 0; k < l.n_new; ++k, ++n_flat) {
            if (net_.asinh) {
                *to++ = scratch.u[n_flat];
                *to++ = scratch.v[n_flat];
            } else {
                *to++ = scratch.now[n_flat];
            }
        }
        l.n_inputs = l.n_new;
    }
    DenseRow* const rows = scratch.dense.data();
    for (int at = 0; at < n_convs; ++at) {
        const Conv& c = convs_[at];
        const bool is_last = at + 1 == n_convs;
        int n_rows = 0;
        for (int i = 0; i < n_lanes; ++i) {
            Lane& l = lanes[i];
            const float* in = inputs_at(l, i, at);
            float* out = inputs_at(l, i, at + 1);
            if (!is_last) out += l.n_waiting[at + 1] * c.channels;
            const int n_in = l.n_waiting[at] + l.n_inputs;
            const int n_out = n_in < c.kernel ? 0 : (n_in - c.kernel) / c.stride + 1;
            for (int k = 0; k < n_out; ++k, in += c.stride * c.inputs, out += c.channels)
                rows[n_rows++] = {in, out};
            l.n_waiting[at] = n_in - n_out * c.stride;
            l.n_inputs = n_out;
        }
        kernels_.dense(c.dense, rows, n_rows);
        for (int i = 0; i < n_lanes; ++i) {
            float* in = inputs_at(lanes[i], i, at);
            if (lanes[i].n_inputs)
                std::memmove(in, in + std::size_t(lanes[i].n_inputs) * c.stride * c.inputs,
                             sizeof(float) * lanes[i].n_waiting[at] * c.inputs);
        }
    }
    int n_rows = 0;
    for (int i = 0; i < n_lanes; ++i) {
        Lane& l = lanes[i];
        l.inputs = inputs_at(l, i, n_convs);
        if (!net_.is_windowed) continue;
        float* product = scratch.products.data() + std::size_t(i) * block_steps_ * 4 * hidden_;
        for (int k = 0; k < l.n_inputs; ++k)
            rows[n_rows++] = {l.inputs + std::size_t(k) * inputs_,
                              product + std::size_t(k) * 4 * hidden_};
    }
    if (net_.is_windowed) kernels_.dense(input_product_, rows, n_rows);
}

// Add the states of a lane that take its next step, and count it.
void Engine::gather(Lane& l, const float* input, Scratch& scratch) const {
    const std::int64_t step = l.n_steps++;
    const std::int64_t first = l.first;
    const int slot = l.first_slot;
    float* decided = nullptr;
    if (step == l.begins_at) {
        ++l.n_begun;
        l.begins_at += net_.steps_per_hop;
    }
    if (l.n_steps == l.finishes_at) {
        decided = l.decided + std::size_t(l.n_decided++) * l.stream->n_lanes * net_.n_classes;
        ++l.first;
        l.finishes_at += net_.steps_per_hop;
        if (++l.first_slot == net_.n_states) l.first_slot = 0;
    }
    if (net_.is_windowed)
        return gather_windows(l, step, first, slot, input, decided, scratch);
    float* state = state_of(*l.stream, l.lane, 0);
    float* ring = state + layers_.size() * 3 * hidden_;
    float* before = ring + std::size_t(l.newest) * hidden_;
    if (++l.newest == ring_) l.newest = 0;
    (step == 0 ? scratch.fresh : scratch.moving)
        .push_back({state, input, before, ring + std::size_t(l.newest) * hidden_, int(step & 1),
                    decided, l.newest});
}

// Add the windows of a lane from `first` on that take a step; if the lane lags, the first alone.
void Engine::gather_windows(const Lane& l, std::int64_t step, std::int64_t first, int slot,
                            const float* input, float* decided, Scratch& scratch) const {
    const bool one_begins = l.begins_at - net_.steps_per_hop == step;
    const std::int64_t end = l.lags ? first + 1 : l.n_begun;
    const int parity = int(step & 1), top = 3 * (int(layers_.size()) - 1);
    for (std::int64_t window = first; window < end; ++window) {
        float* state = state_of(*l.stream, l.lane, slot);
        if (++slot == net_.n_states) slot = 0;
        const bool begins = one_begins && window + 1 == l.n_begun;
        if (begins) {
            float* sum = state + layers_.size() * 3 * hidden_;
            for (std::size_t layer = 0; layer < layers_.size(); ++layer)
                std::fill_n(state + (layer * 3 + 2) * hidden_, hidden_, 0.0f);
            std::fill_n(sum, hidden_, 0.0f);
            std::fill_n(sum + hidden_, hidden_, -INFINITY);
        }
        (begins ? scratch.fresh : scratch.moving)
            .push_back({state, input, state + (top + 1 - parity) * hidden_,
                        state + (top + parity) * hidden_, parity,
                        window == first ? decided : nullptr, 0});
    }
}

// One step of all states that were gathered, layer by layer.
void Engine::advance(Scratch& scratch) const {
    for (bool fresh : {false, true}) {
        const std::vector<Moving>& moving = fresh ? scratch.fresh : scratch.moving;
        if (moving.empty()) continue;
        for (int layer = 0; layer < int(layers_.size()); ++layer) {
            const Layer& l = layers_[layer];
            const bool is_shared = l.cell.w_input == nullptr;
            const bool is_last = layer + 1 == int(layers_.size());
            float* room = scratch.pairs.data();
            auto in_pairs = [&](const float* x, int n) {
                float* pairs = room;
                kernels_.to_pairs(x, n, pairs);
                room += n_pairs(n);
                return pairs;
            };
            for (std::size_t i = 0; i < moving.size(); ++i) {
                const Moving& m = moving[i];
                float* own = m.state + std::size_t(layer) * 3 * hidden_;
                float* sum = is_last && net_.is_windowed ? own + 3 * hidden_ : nullptr;
                if (fresh && !net_.is_windowed) std::fill_n(own + 2 * hidden_, hidden_, 0.0f);
                const float* input = layer ? own + (m.parity - 3) * hidden_ : m.input;
                const float* h = is_last ? m.h_before : own + (1 - m.parity) * hidden_;
                if (kernels_.to_pairs) {
                    if (!is_shared) input = in_pairs(input, layer ? net_.hidden : inputs_);
                    if (!fresh) h = in_pairs(h, net_.hidden);
                }
                scratch.rows[i] = {
                    is_shared ? m.input : l.bias.data(),
                    input,
                    h,
                    own + 2 * hidden_,
                    is_last ? m.h_after : own + m.parity * hidden_,
                    sum,
                    sum ? sum + hidden_ : nullptr,
                };
            }
            kernels_.cells(l.cell, scratch.rows.data(), int(moving.size()), fresh);
        }
    }
}

// Last, mean and maximum of the hidden states of a finished window, through the head.
void Engine::decide(Scratch& scratch) const {
    scratch.finished.clear();
    for (const std::vector<Moving>* some : {&scratch.moving, &scratch.fresh})
        for (const Moving& m : *some)
            if (m.decided) scratch.finished.push_back(&m);
    if (scratch.finished.empty()) return;
    const int n_outputs = head_.m;
    const float share = 1.0f / net_.n_steps;
    for (std::size_t i = 0; i < scratch.finished.size(); ++i) {
        const Moving& m = *scratch.finished[i];
        float* readout = scratch.readouts.data() + i * 3 * hidden_;
        std::copy_n(m.h_after, hidden_, readout);
        const float* rest = m.state + layers_.size() * 3 * hidden_;
        if (net_.is_windowed) {
            for (int u = 0; u < hidden_; ++u) readout[hidden_ + u] = rest[u] * share;
            std::copy_n(rest + hidden_, hidden_, readout + 2 * hidden_);
        } else {
            const int oldest = m.newest + 1 - net_.n_steps;
            kernels_.slide(rest, oldest < 0 ? oldest + ring_ : oldest, net_.n_steps, ring_, hidden_,
                           readout + hidden_, readout + 2 * hidden_);
        }
        scratch.dense[i] = {readout, scratch.logits.data() + i * n_outputs};
    }
    kernels_.dense(head_, scratch.dense.data(), int(scratch.finished.size()));
    for (std::size_t i = 0; i < scratch.finished.size(); ++i) {
        float* p = scratch.logits.data() + i * n_outputs;
        float* decided = scratch.finished[i]->decided;
        const float highest = *std::max_element(p, p + n_outputs);
        float total = 0;
        for (int k = 0; k < n_outputs; ++k) total += p[k] = std::exp(p[k] - highest);
        std::fill_n(decided, net_.n_classes, 0.0f);
        for (int k = 0; k < n_outputs; ++k) decided[net_.output_classes[k]] += p[k] / total;
    }
}

// Copy between a stream and arrays without padding, in the order that snapshot.py gives them.
void Engine::transfer(Stream& s, Snapshot& out, bool to_stream) const {
    const int L = s.n_lanes, S = net_.n_states, H = net_.hidden, n_layers = int(layers_.size());
    std::size_t array = 0;
    auto copy = [&](std::size_t at, float* ours, int n) {
        float* theirs = out.arrays[array].data() + at;
        to_stream ? std::copy_n(theirs, n, ours) : std::copy_n(ours, n, theirs);
    };
    copy(0, s.previous.data(), L);
    for (std::size_t i = 0; i < convs_.size(); ++i) {
        const int C = convs_[i].inputs;
        ++array;
        for (int lane = 0; lane < L; ++lane)
            for (int k = 0; k < s.n_waiting[i]; ++k)
                copy((std::size_t(k) * L + lane) * C,
                     s.waiting.data() + waiting_floats_ * lane + convs_[i].waiting_at +
                         std::size_t(k) * C,
                     C);
    }
    const std::int64_t newest = std::max<std::int64_t>(0, s.n_steps - 1);
    auto each_state = [&](auto where) {
        ++array;
        for (int lane = 0; lane < L; ++lane)
            for (int slot = 0; slot < S; ++slot)
                copy((std::size_t(lane) * S + slot) * H, where(state_of(s, lane, slot)), H);
    };
    for (int layer = 0; layer < n_layers; ++layer)
        each_state([&](float* state) { return hidden_of(state, layer, newest); });
    for (int layer = 0; layer < n_layers; ++layer)
        each_state([&](float* state) { return state + (std::size_t(layer) * 3 + 2) * hidden_; });
    const std::size_t beyond = std::size_t(n_layers) * 3 * hidden_;
    if (net_.is_windowed) {
        each_state([&](float* state) { return state + beyond; });
        each_state([&](float* state) { return state + beyond + hidden_; });
    } else {
        array += 3;
        const std::int64_t n_past = std::min<std::int64_t>(s.n_steps, net_.n_steps);
        for (std::int64_t k = 0; k < n_past; ++k)
            for (int lane = 0; lane < L; ++lane)
                copy((std::size_t(k) * L + lane) * H,
                     hidden_of(state_of(s, lane, 0), n_layers - 1, s.n_steps - n_past + k), H);
    }
}

std::vector<std::size_t> Engine::array_sizes(const Snapshot& of) const {
    const std::size_t L = of.n_lanes, S = net_.n_states, H = net_.hidden;
    std::vector<std::size_t> sizes{L};
    for (std::size_t i = 0; i < convs_.size(); ++i)
        sizes.push_back(of.n_waiting[i] * L * convs_[i].inputs);
    sizes.insert(sizes.end(), 2 * layers_.size(), L * S * H);
    sizes.insert(sizes.end(), 2, net_.is_windowed ? L * S * H : 0);
    const std::int64_t n_past = std::min<std::int64_t>(of.n_steps, net_.n_steps);
    sizes.push_back(net_.is_windowed ? 0 : n_past * L * H);
    return sizes;
}

Snapshot Engine::snapshot(std::int64_t stream) {
    catch_up();
    Stream& s = *streams_.at(stream);
    Snapshot out{s.n_lanes, s.n_skipped, s.n_steps, s.n_waiting, {}};
    for (std::size_t size : array_sizes(out)) out.arrays.emplace_back(size);
    transfer(s, out, false);
    return out;
}

std::int64_t Engine::restore(Snapshot& from) {
    bool fits = from.n_lanes > 0 && from.n_lanes <= MAX_LANES && from.n_steps >= 0 &&
                from.n_steps <= MAX_STEPS &&
                from.n_skipped >= 0 && from.n_skipped <= net_.lead_samples &&
                from.n_waiting.size() == convs_.size();
    for (std::size_t i = 0; fits && i < convs_.size(); ++i)
        fits = from.n_waiting[i] >= 0 && from.n_waiting[i] < convs_[i].kernel;
    if (fits) {
        const std::vector<std::size_t> sizes = array_sizes(from);
        fits = from.arrays.size() == sizes.size();
        for (std::size_t i = 0; fits && i < sizes.size(); ++i)
            fits = from.arrays[i].size() == sizes[i];
    }
    if (!fits) throw std::invalid_argument("a snapshot of another network");
    std::unique_ptr<Stream> s = make_stream(from.n_lanes);
    s->n_skipped = from.n_skipped;
    s->n_steps = from.n_steps;
    s->n_waiting = from.n_waiting;
    transfer(*s, from, true);
    streams_.emplace(next_, std::move(s));
    return next_++;
}

}  // namespace stream_classifier
