// Hammers the engine without Python, for sanitizers: networks, streams, cuts, threads at random.
//
//   stress SEED ROUNDS SECONDS     rounds of one seed are always the same; the time bounds them
//
// Every decision of a stream that was cut, moved between engines, put down and taken up must be, to
// the bit, that of one engine of one thread that sees the whole run at once. Buffers are as long as
// the engine says and no longer, so that a sanitizer sees what goes beyond.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engine.h"

using namespace stream_classifier;

namespace {

std::mt19937 dice;

int between(int low, int high) { return low + int(dice() % unsigned(high - low + 1)); }
bool one_in(int n) { return between(1, n) == 1; }

float normal() {  // near enough, and the same everywhere
    float sum = 0;
    for (int i = 0; i < 4; ++i) sum += float(dice() >> 8) / float(1 << 24) - 0.5f;
    return 1.7f * sum;
}

std::vector<float> normals(std::size_t n, float scale) {
    std::vector<float> x(n);
    for (float& number : x) number = scale * normal();
    return x;
}

[[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "stress: %s\n", what.c_str());
    std::exit(1);
}

// As engines/plan.py plans it.
Network invented() {
    Network net;
    net.asinh = one_in(2);
    net.is_windowed = !one_in(3);
    net.hidden = between(1, 40);
    net.n_classes = between(1, 4);
    const int n_convs = one_in(3) ? between(0, 8) : between(0, 3);
    int inputs = net.n_features(), stride = 1, seen = 1;
    for (int i = 0; i < n_convs; ++i) {
        Network::Conv conv;
        conv.channels = between(1, one_in(4) ? 70 : 19);
        conv.kernel = between(1, 9);
        conv.stride = stride > 6 ? 1 : between(1, std::min(conv.kernel, 4));
        conv.weight = normals(std::size_t(conv.channels) * inputs * conv.kernel,
                              1.5f / std::sqrt(float(inputs * conv.kernel)));
        conv.bias = normals(conv.channels, 0.1f);
        inputs = conv.channels;
        seen += (conv.kernel - 1) * stride;
        stride *= conv.stride;
        net.convs.push_back(std::move(conv));
    }
    const int n_layers = between(1, 3), n_outputs = between(1, 20), H = net.hidden;
    for (int i = 0; i < n_layers; ++i) {
        Network::Layer layer;
        layer.w_input = normals(std::size_t(4) * H * inputs, 2 / std::sqrt(float(inputs)));
        layer.w_hidden = normals(std::size_t(4) * H * H, 2 / std::sqrt(float(H)));
        layer.bias = normals(std::size_t(4) * H, 0.5f);
        inputs = H;
        net.layers.push_back(std::move(layer));
    }
    net.head = normals(std::size_t(3) * H * n_outputs, 2 / std::sqrt(3.0f * H));
    net.head_bias = normals(n_outputs, 0.1f);
    for (int i = 0; i < n_outputs; ++i) net.output_classes.push_back(between(0, net.n_classes - 1));

    const int before = net.asinh ? 1 : 0, window = seen + before + between(0, 40 * stride);
    net.n_steps = (window - seen - before) / stride + 1;
    net.lead_samples = window - seen - (net.n_steps - 1) * stride;
    net.steps_per_hop = between(1, std::max(1, one_in(2) ? 3 : window / stride));
    net.n_states =
        net.is_windowed ? (net.n_steps + net.steps_per_hop - 1) / net.steps_per_hop : 1;
    return net;
}

std::string described(const Network& net) {
    std::string text = net.is_windowed ? "windowed" : "continuous";
    for (const Network::Conv& conv : net.convs)
        text += " (" + std::to_string(conv.channels) + ", " + std::to_string(conv.kernel) + ", " +
                std::to_string(conv.stride) + ")";
    return text + " hidden " + std::to_string(net.hidden) + " x " +
           std::to_string(net.layers.size()) + " steps " + std::to_string(net.n_steps) + " hop " +
           std::to_string(net.steps_per_hop);
}

struct Run {
    int home;  // which engine
    std::int64_t stream;
    int n_lanes;
    std::vector<float> samples, decided;  // so far
};

class Round {
   public:
    explicit Round(const Kernels& kernels)
        : net_(invented()), kernels_(kernels), alone_(net_, kernels, 1) {
        for (int i = 0; i < 2; ++i)
            engines_.push_back(std::make_unique<Engine>(net_, kernels, between(1, 3)));
        for (int n = between(1, 6); n > 0; --n) open();
    }

    std::size_t play() {
        for (int n = between(5, 40); n > 0; --n) {
            switch (between(0, 11)) {
                case 0: engines_[between(0, 1)]->catch_up(); break;
                case 1: move(any()); break;
                case 2: reset(any()); break;
                case 3: close(); break;
                case 4: damage(any()); break;
                default: feed();
            }
        }
        for (Run& run : runs_) verify(run);
        return n_compared_;
    }

   private:
    Run& any() { return runs_[between(0, int(runs_.size()) - 1)]; }

    void open() {
        Run run{between(0, 1), 0, one_in(4) ? between(1, 230) : between(1, 9), {}, {}};
        run.stream = engines_[run.home]->open(run.n_lanes);
        runs_.push_back(std::move(run));
    }

    void feed() {
        const int home = between(0, 1);
        std::vector<Run*> chosen;
        for (Run& run : runs_)
            if (run.home == home && !one_in(4)) chosen.push_back(&run);
        std::vector<std::unique_ptr<float[]>> kept;  // exactly as long as they must be
        std::vector<Fed> fed;
        std::vector<std::size_t> sizes;
        for (Run* run : chosen) {
            const int most = one_in(20) ? 5000 : one_in(4) ? 300 : one_in(2) ? 40 : 1;
            const std::size_t n = std::size_t(between(0, std::max(1, most / run->n_lanes)));
            std::vector<float> z = normals(n * run->n_lanes, one_in(10) ? 1000.0f : 1.0f);
            const std::int64_t n_due = engines_[home]->n_due(run->stream, std::int64_t(n));
            if (n_due < 0) fail("fewer than no decisions are due");
            sizes.push_back(std::size_t(n_due) * run->n_lanes * net_.n_classes);
            kept.push_back(std::make_unique<float[]>(z.size()));
            std::copy(z.begin(), z.end(), kept.back().get());
            kept.push_back(std::make_unique<float[]>(sizes.back()));
            std::fill_n(kept.back().get(), sizes.back(), -1.0f);
            fed.push_back({run->stream, kept[kept.size() - 2].get(), std::int64_t(n),
                           kept.back().get()});
            run->samples.insert(run->samples.end(), z.begin(), z.end());
        }
        engines_[home]->feed(fed.data(), fed.size());
        for (std::size_t i = 0; i < chosen.size(); ++i)
            chosen[i]->decided.insert(chosen[i]->decided.end(), fed[i].decided,
                                      fed[i].decided + sizes[i]);
    }

    // Put down and taken up, in the same engine or the other.
    void move(Run& run) {
        Snapshot taken = engines_[run.home]->snapshot(run.stream);
        if (one_in(2)) engines_[run.home]->close(run.stream);
        // Counts far beyond 32 bits, of the same window in the same slot.
        if (taken.n_steps >= net_.n_steps && one_in(2))
            taken.n_steps += (std::int64_t(1) << 40) * net_.n_states * net_.steps_per_hop;
        run.home = between(0, 1);
        run.stream = engines_[run.home]->restore(taken);
    }

    void reset(Run& run) {
        verify(run);
        engines_[run.home]->reset(run.stream);
        run.samples.clear();
        run.decided.clear();
    }

    void close() {
        Run& run = any();
        verify(run);
        engines_[run.home]->close(run.stream);
        std::swap(run, runs_.back());
        runs_.pop_back();
        open();
    }

    // A snapshot with one thing wrong is refused, and nothing is changed.
    void damage(const Run& run) {
        Engine& engine = *engines_[run.home];
        Snapshot taken = engine.snapshot(run.stream);
        switch (between(0, 6)) {
            case 0: taken.n_lanes = one_in(2) ? 0 : -between(1, 1 << 30); break;
            case 1: taken.n_lanes = MAX_LANES + between(1, 1 << 30); break;
            case 2: taken.n_skipped = net_.lead_samples + 1; break;
            case 3: taken.n_steps = -1; break;
            case 4: taken.n_waiting.push_back(0); break;
            case 5: taken.arrays[between(0, int(taken.arrays.size()) - 1)].push_back(0); break;
            case 6: taken.arrays.pop_back(); break;
        }
        try {
            engine.restore(taken);
        } catch (const std::invalid_argument&) {
            return;
        }
        fail("a damaged snapshot was taken");
    }

    void verify(const Run& run) {
        const std::int64_t n = std::int64_t(run.samples.size()) / run.n_lanes;
        const std::int64_t stream = alone_.open(run.n_lanes);
        const std::int64_t n_due = alone_.n_due(stream, n);
        std::vector<float> whole(std::size_t(n_due) * run.n_lanes * net_.n_classes, -2.0f);
        const float none = 0;
        float nowhere;
        const Fed fed{stream, n ? run.samples.data() : &none, n, n_due ? whole.data() : &nowhere};
        alone_.feed(&fed, 1);
        alone_.close(stream);
        if (whole.size() != run.decided.size())
            fail("cut there are " + std::to_string(run.decided.size()) + " numbers, whole " +
                 std::to_string(whole.size()) + ": " + described(net_));
        if (!whole.empty() &&
            std::memcmp(whole.data(), run.decided.data(), whole.size() * sizeof(float)) != 0)
            fail(std::string("cut and whole differ: ") + kernels_.name + ", " + described(net_));
        for (std::size_t i = 0; i < whole.size(); ++i)
            if (!(whole[i] >= 0 && whole[i] <= 1.001f)) fail("no probability: " + described(net_));
        n_compared_ += whole.size();
    }

    Network net_;
    const Kernels& kernels_;
    Engine alone_;
    std::vector<std::unique_ptr<Engine>> engines_;
    std::vector<Run> runs_;
    std::size_t n_compared_ = 0;
};

}  // namespace

int main(int n_arguments, char** arguments) {
    if (n_arguments != 4) fail("usage: stress SEED ROUNDS SECONDS");
    const int seed = std::atoi(arguments[1]), n_rounds = std::atoi(arguments[2]);
    const std::chrono::seconds limit(std::atoi(arguments[3]));
    const auto start = std::chrono::steady_clock::now();
    std::vector<const Kernels*> usable;
    for (const Kernels* const* k : {ALL_KERNELS, BFLOAT16_KERNELS, EMULATED_KERNELS})
        for (; *k; ++k)
            if ((*k)->available()) usable.push_back(*k);
    std::size_t n_compared = 0;
    int round = 0;
    for (; round < n_rounds && std::chrono::steady_clock::now() - start < limit; ++round) {
        dice.seed(unsigned(seed + round / int(usable.size())));  // each for every instruction set
        n_compared += Round(*usable[std::size_t(round) % usable.size()]).play();
    }
    std::printf("%d rounds, %zu instruction sets, %zu numbers the same\n", round, usable.size(),
                n_compared);
    return n_compared == 0;
}
