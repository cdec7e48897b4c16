"""A model that was damaged, mixed up or forged is refused at the start, with a reason."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from stream_classifier.bundle import MANIFEST, MAX_BYTES, canonical_json, load_bundle
from stream_classifier.cli import main
from stream_classifier.errors import BundleError

MODELS = ("headset", "bonn-continuous")
N_FAST, N_ALL = 400, 10_000

ODD_VALUES = (
    None, True, -1, 0, 1e308, 2**70, "", "x" * 5000, "../../etc/passwd", [], {}, [[[[]]]],
)  # fmt: skip


@pytest.fixture
def memory():
    """A folder in memory where there is one, so that thousands of writes cost no disk."""
    place = "/dev/shm"  # noqa: S108 - a folder of its own is made in it
    place = place if os.access(place, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


class Shelf:
    """One bundle on disk that is damaged, looked at and put right again, many times."""

    def __init__(self, folder: Path, rng: random.Random):
        sources = {name: load_bundle(name).path for name in MODELS}
        self.whole, self.other = (
            {file: (sources[name] / file).read_bytes() for file in MAX_BYTES} for name in MODELS
        )
        self.folder = folder / "model"
        self.rng = rng
        self.folder.mkdir()
        self.restore()

    def put(self, changed):
        """Change some files of the whole bundle; None leaves one out."""
        for name, raw in changed.items():
            path = self.folder / name
            if raw is None:
                path.unlink()
            else:
                path.write_bytes(raw)

    def restore(self):
        """Make it whole again."""
        for path in self.folder.iterdir():
            if path.name not in self.whole:
                path.unlink()
        self.put(self.whole)

    def mutations(self):
        """Say what was done, and give the files that differ by it, for ever."""
        kinds = (
            self.cut, self.flipped, self.inserted, self.overwritten, self.swapped, self.without,
            self.doubled, self.altered, self.exchanged,
        )  # fmt: skip
        while True:
            kind = self.rng.choice(kinds)
            changed = kind()
            if any(self.whole.get(file) != raw for file, raw in changed.items()):
                yield kind.__name__, changed

    def cut(self):
        file, raw = self._any()
        return {file: raw[: self.rng.randrange(len(raw))]}

    def flipped(self):
        file, raw = self._any()
        damaged = bytearray(raw)
        for _ in range(self.rng.choice((1, 1, 2, 8, 64))):
            damaged[self._place(raw)] ^= 1 << self.rng.randrange(8)
        return {file: bytes(damaged)}

    def inserted(self):
        file, raw = self._any()
        at = self._place(raw)
        return {file: raw[:at] + self.rng.randbytes(self.rng.randrange(1, 64)) + raw[at:]}

    def overwritten(self):
        file, raw = self._any()
        at = self._place(raw)
        new = self.rng.choice((b"\0", b"\xff", b" ", b"9")) * self.rng.randrange(1, 64)
        return {file: raw[:at] + new + raw[at + len(new) :]}

    def swapped(self):
        """Some parts, but not all, are those of another model."""
        some = self.rng.sample(list(self.whole), self.rng.randrange(1, len(self.whole)))
        changed = {file: self.other[file] for file in some}
        same = {file for file in self.whole if self.whole[file] == self.other[file]}
        return {} if set(some) | same >= set(self.whole) else changed

    def without(self):
        return dict.fromkeys(self.rng.sample(list(self.whole), self.rng.randrange(1, 4)))

    def doubled(self):
        file, raw = self._any()
        name = self.rng.choice((f"{file}.bak", f"copy of {file}", f".{file}", file.upper() + "~"))
        return {name: raw}

    def altered(self):
        """One field of a JSON file says something else, spelt as a bundle would spell it."""
        file = self.rng.choice((MANIFEST, MANIFEST, "split.json"))
        content = json.loads(self.whole[file])
        places = list(_places(content))
        holder, key = self.rng.choice(places)
        action = self.rng.randrange(3)
        if action == 0:
            del holder[key]
        elif action == 1 and isinstance(holder, dict):
            holder[f"{key}_"] = holder.pop(key)
        else:
            holder[key] = self.rng.choice((*ODD_VALUES, self.rng.random()))
        indent = 1 if file == MANIFEST else None
        separators = (",", ": ") if indent else (",", ":")
        text = json.dumps(content, sort_keys=True, indent=indent, separators=separators)
        return {file: f"{text}\n".encode()}

    def exchanged(self):
        """Two files under each other's names."""
        one, other = self.rng.sample(list(self.whole), 2)
        return {one: self.whole[other], other: self.whole[one]}

    def _any(self):
        file = self.rng.choice(list(self.whole))
        return file, self.whole[file]

    def _place(self, raw):
        reach = min(len(raw), 512) if self.rng.random() < 0.5 else len(raw)  # often the head
        return self.rng.randrange(reach)


def _places(value):
    """Every holder and key in a JSON value."""
    if isinstance(value, dict | list):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _places(inner)


def _reason(folder):
    """Why a bundle is refused; None if it is taken."""
    try:
        load_bundle(folder)
    except BundleError as error:
        return str(error)
    return None


def _all_refused(folder, n):
    rng = random.Random(n)
    shelf = Shelf(folder, rng)
    load_bundle(shelf.folder)  # the whole one is taken, so what follows can fail
    kinds = Counter()
    for (kind, changed), _ in zip(shelf.mutations(), range(n), strict=False):
        shelf.put(changed)
        said = _reason(shelf.folder)
        assert said is not None, f"a bundle was taken though it was {kind}: {list(changed)}"
        assert "expected" in said, (kind, said)
        assert "Try: " in said, (kind, said)
        assert len(said) < 4000, kind
        kinds[kind] += 1
        shelf.restore()
    load_bundle(shelf.folder)
    return kinds


@pytest.mark.fault(30)
def test_every_mutation_of_a_bundle_is_refused_with_a_reason(memory):
    kinds = _all_refused(memory, N_FAST)
    assert kinds.total() == N_FAST
    assert len(kinds) == 9


@pytest.mark.fault(30)
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_mutations_of_a_bundle_are_refused_with_a_reason(memory, measured):
    kinds = _all_refused(memory, N_ALL)
    measured(f"mutations refused with a reason, of {N_ALL:,}", f"{kinds.total():,}")


@pytest.mark.fault(30)
def test_a_damaged_bundle_ends_the_command_with_exit_code_6_and_the_reason(memory, capsys):
    shelf = Shelf(memory, random.Random(1))
    (shelf.folder / "weights.safetensors").write_bytes(shelf.whole["weights.safetensors"][:-1])
    assert main(["model", "show", str(shelf.folder)]) == 6
    assert "weights.safetensors: expected" in capsys.readouterr().err


def _seal(folder):
    """Make every digest true again, as a careful forger would."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    for file in manifest["files"]:
        raw = (folder / file).read_bytes()
        manifest["files"][file] = {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)}
    del manifest["digest"]
    manifest["digest"] = hashlib.sha256(canonical_json(manifest, indent=1)).hexdigest()
    (folder / MANIFEST).write_bytes(canonical_json(manifest, indent=1))


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return (open, (self.trace, "w"))


def _pickles(trace):
    """Model files as they are dressed: name, and bytes that run code in whoever unpickles them."""
    for protocol in (0, 2, pickle.HIGHEST_PROTOCOL):
        yield f"pickle {protocol}", pickle.dumps(Payload(trace), protocol)
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    with tempfile.TemporaryDirectory() as folder:
        for name, zipped in (("torch", True), ("torch of old", False)):
            path = Path(folder, "model.pt")
            torch.save(Payload(trace), path, _use_new_zipfile_serialization=zipped)
            yield name, path.read_bytes()
        path = Path(folder, "model.zip")
        with zipfile.ZipFile(path, "w") as archive:
            for name in MAX_BYTES:
                archive.writestr(name, pickle.dumps(Payload(trace)))
        yield "zip", path.read_bytes()
    numpy = pytest.importorskip("numpy")
    path = Path(trace).with_suffix(".npy")
    numpy.save(path, numpy.array([Payload(trace)], dtype=object), allow_pickle=True)
    yield "numpy", path.read_bytes()
    path.unlink()


@pytest.mark.fault(31)
def test_a_pickle_dressed_as_a_model_is_refused_and_never_run(memory, measured, capsys):
    trace = memory / "executed"
    pickle.loads(pickle.dumps(Payload(trace))).close()  # noqa: S301 - so that it would show
    assert trace.exists()
    trace.unlink()
    shelf = Shelf(memory, random.Random(2))
    n = 0
    for kind, raw in _pickles(trace):
        dressed = [memory / "model.pt", memory / "model.zip", memory / "bundle"]
        for path in dressed:
            path.write_bytes(raw)
            with pytest.raises(BundleError):
                load_bundle(path)
            assert main(["model", "show", str(path)]) == 6, kind
            path.unlink()
            n += 1
        for file in MAX_BYTES:
            shelf.put({file: raw})
            with pytest.raises(BundleError):
                load_bundle(shelf.folder)
            n += 1
            if file.endswith((".safetensors", ".json")) and file != MANIFEST:
                _seal(shelf.folder)
                with pytest.raises(BundleError):
                    load_bundle(shelf.folder)
                n += 1
            shelf.restore()
        for extra in ("weights.pt", "weights.pkl", "__init__.py", "data.pkl"):
            (shelf.folder / extra).write_bytes(raw)
            with pytest.raises(BundleError):
                load_bundle(shelf.folder)
            (shelf.folder / extra).unlink()
            n += 1
    capsys.readouterr()
    assert not trace.exists()
    measured("pickles refused unexecuted", n)
