// The engine as a Python module, by the stable ABI alone: one build serves every Python from 3.11.
//
// engines/native.py is its only user, and checks what people may get wrong. What is checked here is
// what memory safety rests on, and what would cost too much in Python.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine.h"
#include "filters.h"

using namespace stream_classifier;

namespace {

// A buffer that is given back at the end of a scope.
class Buffer {
   public:
    Buffer() { view_.obj = nullptr; }
    Buffer(Buffer&& other) noexcept : view_(other.view_) { other.view_.obj = nullptr; }
    Buffer(const Buffer&) = delete;
    ~Buffer() {
        if (view_.obj) PyBuffer_Release(&view_);
    }
    // Contiguous numbers of a format ("f", "d"); false, without an error, if it is no such thing.
    bool get(PyObject* object, const char* format, bool writable = false) {
        const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(object, &view_, flags) != 0) {
            PyErr_Clear();
            view_.obj = nullptr;
            return false;
        }
        return view_.format && std::strcmp(view_.format, format) == 0;
    }
    int ndim() const { return view_.ndim; }
    Py_ssize_t shape(int axis) const { return view_.shape[axis]; }
    std::size_t size() const { return std::size_t(view_.len / view_.itemsize); }
    template <typename T>
    T* as() const {
        return static_cast<T*>(view_.buf);
    }

   private:
    Py_buffer view_;
};

// An object that is let go at the end of a scope.
class Held {
   public:
    enum Taken { TAKEN };
    explicit Held(PyObject* object) : object_(object) { Py_INCREF(object); }
    Held(PyObject* object, Taken) : object_(object) {}
    Held(Held&& other) noexcept : object_(other.object_) { other.object_ = nullptr; }
    Held(const Held&) = delete;
    ~Held() { Py_XDECREF(object_); }
    PyObject* get() const { return object_; }

   private:
    PyObject* object_;
};

class GilReleased {
   public:
    GilReleased() : state_(PyEval_SaveThread()) {}
    ~GilReleased() { PyEval_RestoreThread(state_); }

   private:
    PyThreadState* state_;
};

struct PyEngine {
    PyObject_HEAD
    Engine* engine;
    bool busy;  // a thread computes with it, without the interpreter's lock
};

// Closed to other threads for a scope, which may be without the interpreter's lock.
class Busy {
   public:
    explicit Busy(PyObject* self) : busy_(reinterpret_cast<PyEngine*>(self)->busy) { busy_ = true; }
    ~Busy() { busy_ = false; }

   private:
    bool& busy_;
};

bool is_busy(PyObject* self) {
    if (!reinterpret_cast<PyEngine*>(self)->busy) return false;
    PyErr_SetString(PyExc_RuntimeError, "one thread at a time: this engine is at work on another");
    return true;
}

Engine& engine_of(PyObject* self) { return *reinterpret_cast<PyEngine*>(self)->engine; }

// Run something that may fail as C++ fails; report it as Python does.
template <typename F>
PyObject* guarded(F body) {
    try {
        return body();
    } catch (const std::bad_alloc&) {
        return PyErr_NoMemory();
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
        return nullptr;
    }
}

bool stream_of(PyObject* self, PyObject* number, std::int64_t& stream) {
    stream = PyLong_AsLongLong(number);
    if (stream == -1 && PyErr_Occurred()) return false;
    if (is_busy(self)) return false;  // only now: the conversion may run other code
    if (engine_of(self).has(stream)) return true;
    PyErr_SetObject(PyExc_KeyError, number);
    return false;
}

bool all_finite(const float* x, std::size_t n) {
    std::uint32_t found = 0;  // an exponent of all ones is infinity or NaN
    for (std::size_t i = 0; i < n; ++i) {
        std::uint32_t bits;
        std::memcpy(&bits, x + i, sizeof bits);
        found |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return !found;
}

constexpr long MAX_SETTING = 1 << 24;  // so that sums and products of a few fit where they must

long item(PyObject* mapping, const char* key) {
    PyObject* value = PyDict_GetItemString(mapping, key);  // borrowed
    if (!value) throw std::invalid_argument(key);
    const long number = PyLong_AsLong(value);
    if (number == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        throw std::invalid_argument(key);
    }
    if (number < 0 || number > MAX_SETTING) throw std::invalid_argument(key);
    return number;
}

std::vector<float> numbers(PyObject* mapping, const std::string& key, std::size_t size) {
    PyObject* value = PyDict_GetItemString(mapping, key.c_str());  // borrowed
    Buffer buffer;
    if (!value || !buffer.get(value, "f") || buffer.size() != size)
        throw std::invalid_argument("expected " + std::to_string(size) + " numbers in " + key);
    return {buffer.as<float>(), buffer.as<float>() + size};
}

// Settings and weights by name, as engines/native.py writes them.
Network network_of(PyObject* given) {
    Network net;
    net.asinh = item(given, "asinh") != 0;
    net.hidden = int(item(given, "hidden"));
    net.n_classes = int(item(given, "n_classes"));
    net.is_windowed = item(given, "is_windowed") != 0;
    net.lead_samples = int(item(given, "lead_samples"));
    net.n_steps = int(item(given, "n_steps"));
    net.steps_per_hop = int(item(given, "steps_per_hop"));
    net.n_states = int(item(given, "n_states"));
    const int n_convs = int(item(given, "n_convs")), n_layers = int(item(given, "n_layers"));
    const int n_outputs = int(item(given, "n_outputs"));
    if (n_convs < 0 || n_convs > MAX_CONVS || n_layers < 1 || net.hidden < 1 || net.n_states < 1 ||
        net.n_steps < 1 || net.steps_per_hop < 1 || n_outputs < 1 || net.n_classes < 1)
        throw std::invalid_argument("a number is out of range");
    const int at_once = (net.n_steps + net.steps_per_hop - 1) / net.steps_per_hop;
    if (net.n_states != (net.is_windowed ? at_once : 1)) throw std::invalid_argument("n_states");
    std::size_t inputs = net.n_features(), H = net.hidden;
    long stride = 1;
    for (int i = 1; i <= n_convs; ++i) {
        const std::string name = "conv" + std::to_string(i);
        Network::Conv conv;
        conv.channels = int(item(given, (name + ".channels").c_str()));
        conv.kernel = int(item(given, (name + ".kernel").c_str()));
        conv.stride = int(item(given, (name + ".stride").c_str()));
        if (conv.channels < 1 || conv.kernel < 1 || conv.stride < 1 || conv.stride > conv.kernel)
            throw std::invalid_argument(name);
        stride *= conv.stride;
        if (stride > MAX_SETTING) throw std::invalid_argument(name);
        conv.weight = numbers(given, name + ".weight", inputs * conv.channels * conv.kernel);
        conv.bias = numbers(given, name + ".bias", conv.channels);
        inputs = conv.channels;
        net.convs.push_back(std::move(conv));
    }
    for (int i = 1; i <= n_layers; ++i) {
        const std::string name = i == 1 ? "lstm" : "lstm" + std::to_string(i);
        Network::Layer layer;
        layer.w_input = numbers(given, name + ".weight_ih", 4 * H * inputs);
        layer.w_hidden = numbers(given, name + ".weight_hh", 4 * H * H);
        layer.bias = numbers(given, name + ".bias", 4 * H);
        inputs = H;
        net.layers.push_back(std::move(layer));
    }
    net.head = numbers(given, "head.weight", 3 * H * n_outputs);
    net.head_bias = numbers(given, "head.bias", n_outputs);
    for (int i = 0; i < n_outputs; ++i) {
        const long c = item(given, ("output" + std::to_string(i)).c_str());
        if (c < 0 || c >= net.n_classes) throw std::invalid_argument("a class is out of range");
        net.output_classes.push_back(int(c));
    }
    return net;
}

PyObject* engine_new(PyTypeObject* type, PyObject* args, PyObject*) {
    PyObject* given;
    const char* instructions;
    int n_threads;
    if (!PyArg_ParseTuple(args, "O!si", &PyDict_Type, &given, &instructions, &n_threads))
        return nullptr;
    return guarded([&]() -> PyObject* {
        const Kernels* kernels = choose_kernels(instructions);
        if (!kernels || !kernels->available()) {
            PyErr_Format(PyExc_ValueError, "no kernels %s", instructions);
            return nullptr;
        }
        if (n_threads < 1 || n_threads > MAX_THREADS) {
            PyErr_Format(PyExc_ValueError, "expected 1 to %d threads, found %d", MAX_THREADS,
                         n_threads);
            return nullptr;
        }
        auto engine = std::make_unique<Engine>(network_of(given), *kernels, n_threads);
        auto alloc = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
        PyObject* self = alloc(type, 0);
        if (self) reinterpret_cast<PyEngine*>(self)->engine = engine.release();
        return self;
    });
}

void engine_free(PyObject* self) {
    PyTypeObject* type = Py_TYPE(self);
    delete reinterpret_cast<PyEngine*>(self)->engine;
    reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

PyObject* engine_open(PyObject* self, PyObject* number) {
    const long n_lanes = PyLong_AsLong(number);
    if (n_lanes == -1 && PyErr_Occurred()) return nullptr;
    if (is_busy(self)) return nullptr;
    if (n_lanes < 1 || n_lanes > MAX_LANES) {
        PyErr_Format(PyExc_ValueError, "expected 1 to %d channels, found %ld", MAX_LANES, n_lanes);
        return nullptr;
    }
    return guarded([&] { return PyLong_FromLongLong(engine_of(self).open(int(n_lanes))); });
}

PyObject* engine_reset(PyObject* self, PyObject* number) {
    std::int64_t stream;
    if (!stream_of(self, number, stream)) return nullptr;
    engine_of(self).reset(stream);
    Py_RETURN_NONE;
}

PyObject* engine_close(PyObject* self, PyObject* number) {
    std::int64_t stream;
    if (!stream_of(self, number, stream)) return nullptr;
    engine_of(self).close(stream);
    Py_RETURN_NONE;
}

PyObject* engine_n_lanes(PyObject* self, PyObject* number) {
    std::int64_t stream;
    if (!stream_of(self, number, stream)) return nullptr;
    return PyLong_FromLong(engine_of(self).n_lanes(stream));
}

// feed({stream: samples}) -> (decisions of all streams end to end, as bytes; how many of each), or
// None if some samples are not finite float32 numbers of the right shape, or a key is no plain int:
// nothing is changed then.
PyObject* engine_feed(PyObject* self, PyObject* samples) {
    if (is_busy(self)) return nullptr;
    if (!PyDict_Check(samples)) {
        PyErr_SetString(PyExc_TypeError, "expected a dict of samples by stream");
        return nullptr;
    }
    return guarded([&]() -> PyObject* {
        Engine& engine = engine_of(self);
        const std::size_t n_streams = std::size_t(PyDict_Size(samples));
        std::vector<Held> values;
        std::vector<Buffer> buffers(n_streams);
        std::vector<Fed> fed(n_streams);
        std::vector<std::int64_t> n_due(n_streams);
        values.reserve(n_streams);
        PyObject *key, *value;
        Py_ssize_t place = 0;
        std::int64_t total = 0;
        for (std::size_t i = 0; PyDict_Next(samples, &place, &key, &value); ++i) {
            if (!PyLong_CheckExact(key)) Py_RETURN_NONE;  // its conversion might change the dict
            if (!stream_of(self, key, fed[i].stream)) return nullptr;
            values.emplace_back(value);
        }
        // Getting a buffer may run other code, too: what that could change is looked at afterwards.
        bool all_there = true;
        for (std::size_t i = 0; i < n_streams; ++i)
            all_there = buffers[i].get(values[i].get(), "f") && all_there;
        Held counts(PyTuple_New(Py_ssize_t(n_streams)), Held::TAKEN);
        if (!counts.get() || is_busy(self)) return nullptr;
        if (!all_there) Py_RETURN_NONE;
        for (std::size_t i = 0; i < n_streams; ++i) {
            Fed& f = fed[i];
            if (!engine.has(f.stream)) Py_RETURN_NONE;
            const int n_lanes = engine.n_lanes(f.stream);
            if (buffers[i].ndim() != 2 ||
                buffers[i].shape(1) != n_lanes ||
                !all_finite(buffers[i].as<float>(), buffers[i].size()))
                Py_RETURN_NONE;
            f.samples = buffers[i].as<float>();
            f.n = buffers[i].shape(0);
            n_due[i] = engine.n_due(f.stream, f.n);
            total += n_due[i] * n_lanes;
        }
        total *= engine.n_classes();
        Held decided(PyByteArray_FromStringAndSize(nullptr, Py_ssize_t(total * sizeof(float))),
                     Held::TAKEN);
        if (!decided.get()) return nullptr;
        float* at = reinterpret_cast<float*>(PyByteArray_AsString(decided.get()));
        for (std::size_t i = 0; i < n_streams; ++i) {
            fed[i].decided = at;
            at += n_due[i] * engine.n_lanes(fed[i].stream) * engine.n_classes();
            PyTuple_SetItem(counts.get(), Py_ssize_t(i), PyLong_FromLongLong(n_due[i]));
        }
        {
            Busy busy(self);
            GilReleased released;
            engine.feed(fed.data(), n_streams);
        }
        return Py_BuildValue("(OO)", decided.get(), counts.get());
    });
}

PyObject* engine_catch_up(PyObject* self, PyObject*) {
    if (is_busy(self)) return nullptr;
    return guarded([&]() -> PyObject* {
        {
            Busy busy(self);
            GilReleased released;
            engine_of(self).catch_up();
        }
        Py_RETURN_NONE;
    });
}

// snapshot(stream) -> (lanes, samples left out, steps done, inputs waiting, arrays)
PyObject* engine_snapshot(PyObject* self, PyObject* number) {
    std::int64_t stream;
    if (!stream_of(self, number, stream)) return nullptr;
    return guarded([&]() -> PyObject* {
        const Snapshot taken = engine_of(self).snapshot(stream);
        PyObject* waiting = PyList_New(0);
        for (int n : taken.n_waiting) {
            PyObject* count = PyLong_FromLong(n);
            PyList_Append(waiting, count);
            Py_XDECREF(count);
        }
        PyObject* arrays = PyList_New(0);
        for (const std::vector<float>& array : taken.arrays) {
            PyObject* bytes = PyByteArray_FromStringAndSize(
                reinterpret_cast<const char*>(array.data()),
                Py_ssize_t(array.size() * sizeof(float)));
            PyList_Append(arrays, bytes);
            Py_XDECREF(bytes);
        }
        return Py_BuildValue("(iiLNN)", taken.n_lanes, taken.n_skipped,
                             static_cast<long long>(taken.n_steps), waiting, arrays);
    });
}

// restore(lanes, samples left out, steps done, inputs waiting, arrays) -> stream
PyObject* engine_restore(PyObject* self, PyObject* args) {
    int n_lanes, n_skipped;
    long long n_steps;
    PyObject *waiting, *arrays;
    if (!PyArg_ParseTuple(args, "iiLO!O!", &n_lanes, &n_skipped, &n_steps, &PyList_Type, &waiting,
                          &PyList_Type, &arrays))
        return nullptr;
    return guarded([&]() -> PyObject* {
        Engine& engine = engine_of(self);
        Snapshot given{n_lanes, n_skipped, n_steps, {}, {}};
        for (Py_ssize_t i = 0; i < PyList_Size(waiting); ++i)
            given.n_waiting.push_back(int(PyLong_AsLong(PyList_GetItem(waiting, i))));
        if (PyErr_Occurred()) return nullptr;
        for (Py_ssize_t i = 0; i < PyList_Size(arrays); ++i) {
            Buffer array;
            if (!array.get(PyList_GetItem(arrays, i), "f"))
                throw std::invalid_argument("an array of a snapshot is not of float32");
            given.arrays.emplace_back(array.as<float>(), array.as<float>() + array.size());
        }
        if (is_busy(self)) return nullptr;
        return PyLong_FromLongLong(engine.restore(given));
    });
}

PyMethodDef ENGINE_METHODS[] = {
    {"open", engine_open, METH_O, "Add a stream of so many channels; return its number."},
    {"reset", engine_reset, METH_O, "Forget a stream's past."},
    {"close", engine_close, METH_O, "Remove a stream."},
    {"n_lanes", engine_n_lanes, METH_O, "Return the channels of a stream."},
    {"feed", engine_feed, METH_O, "Add samples; return decisions and how many of each stream."},
    {"catch_up", engine_catch_up, METH_NOARGS, "Do what feed put off."},
    {"snapshot", engine_snapshot, METH_O, "Return all that a stream carries."},
    {"restore", engine_restore, METH_VARARGS, "Add a stream that goes on from a snapshot."},
    {nullptr, nullptr, 0, nullptr}};

PyType_Slot ENGINE_SLOTS[] = {{Py_tp_new, reinterpret_cast<void*>(engine_new)},
                              {Py_tp_dealloc, reinterpret_cast<void*>(engine_free)},
                              {Py_tp_methods, ENGINE_METHODS},
                              {0, nullptr}};

PyType_Spec ENGINE_SPEC = {"stream_classifier.engines._native.Engine", sizeof(PyEngine), 0,
                           Py_TPFLAGS_DEFAULT, ENGINE_SLOTS};

// The instruction sets among these that this processor has, in their order.
PyObject* names_of(const Kernels* const* k) {
    PyObject* names = PyList_New(0);
    for (; names && *k; ++k) {
        if (!(*k)->available()) continue;
        PyObject* name = PyUnicode_FromString((*k)->name);
        PyList_Append(names, name);
        Py_XDECREF(name);
    }
    return names;
}

PyObject* instructions(PyObject*, PyObject*) { return names_of(ALL_KERNELS); }

PyObject* bfloat16_instructions(PyObject*, PyObject*) { return names_of(BFLOAT16_KERNELS); }

PyObject* emulated_instructions(PyObject*, PyObject*) { return names_of(EMULATED_KERNELS); }

// busy(instructions, n) -> operations: multiply and add in registers, n times each.
PyObject* busy(PyObject*, PyObject* args) {
    const char* name;
    long long n;
    if (!PyArg_ParseTuple(args, "sL", &name, &n)) return nullptr;
    const Kernels* kernels = choose_kernels(name);
    if (!kernels || !kernels->available()) {
        PyErr_Format(PyExc_ValueError, "no kernels %s", name);
        return nullptr;
    }
    double done;
    {
        GilReleased released;
        done = kernels->busy(n);
    }
    return PyFloat_FromDouble(done);
}

// sosfilt(sections (n, 6), state (n, 2, channels), samples (m, channels)), float64: both in place.
PyObject* sosfilt(PyObject*, PyObject* args) {
    PyObject *sections, *state, *samples;
    if (!PyArg_ParseTuple(args, "OOO", &sections, &state, &samples)) return nullptr;
    Buffer sos, z, x;
    if (!sos.get(sections, "d") || !z.get(state, "d", true) || !x.get(samples, "d", true) ||
        sos.ndim() != 2 || sos.shape(1) != 6 || z.ndim() != 3 || z.shape(0) != sos.shape(0) ||
        z.shape(1) != 2 || x.ndim() != 2 || x.shape(1) != z.shape(2)) {
        PyErr_SetString(PyExc_ValueError, "expected float64 (n, 6), (n, 2, channels), (m, channels)");
        return nullptr;
    }
    {
        GilReleased released;
        filter_sections(sos.as<double>(), int(sos.shape(0)), z.as<double>(), x.as<double>(),
                        x.shape(0), int(x.shape(1)));
    }
    Py_RETURN_NONE;
}

PyMethodDef METHODS[] = {
    {"instructions", instructions, METH_NOARGS,
     "Return the instruction sets that can be used, the widest first."},
    {"bfloat16_instructions", bfloat16_instructions, METH_NOARGS,
     "Return those with products in bfloat16."},
    {"emulated_instructions", emulated_instructions, METH_NOARGS,
     "Return those that emulate products in bfloat16."},
    {"busy", busy, METH_VARARGS, "Multiply and add for a while; return how many operations."},
    {"sosfilt", sosfilt, METH_VARARGS, "Filter samples in place by second-order sections."},
    {nullptr, nullptr, 0, nullptr}};

int fill(PyObject* module) {
    PyObject* type = PyType_FromModuleAndSpec(module, &ENGINE_SPEC, nullptr);
    if (!type) return -1;
    const int failed = PyModule_AddObjectRef(module, "Engine", type);
    Py_DECREF(type);
    return failed;
}

PyModuleDef_Slot SLOTS[] = {{Py_mod_exec, reinterpret_cast<void*>(fill)}, {0, nullptr}};

PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_native", "See engines/native.py.", 0, METHODS, SLOTS,
                      nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__native() { return PyModuleDef_Init(&MODULE); }
