"""An LSL stream may describe itself with anything: little of it is read, and nothing expands."""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import threading

import pytest

pytest.importorskip("pylsl")
pytestmark = [
    pytest.mark.lsl,
    pytest.mark.fault(33),
    pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc"),
]

MORE_MB = 50
"""What the promise allows."""

LIBLSL_MB = 1_000
"""What a description of 10 MB may take at the very most: liblsl parses it before we see it."""

ATTACHING = """
import json, sys, time
from stream_classifier.errors import StreamClassifierError
from stream_classifier.sources.lsl_runtime import quiet_liblsl
quiet_liblsl()
import ctypes, pylsl
from pylsl.lib import lib
from stream_classifier.sources import discovery, inlet

def peak_mb():
    # Not ru_maxrss: a new process has that of the one that started it.
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

def attach(device):
    for _ in inlet.attach(device, channels=None, unit=None):
        pass

how, where = sys.argv[1:]
if how == "outlet":
    with discovery.Lookout() as lookout:
        deadline_s = time.monotonic() + 20
        while not (found := [s for s in lookout.streams() if s.source_id == where]):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
    device = found[0]
else:
    xml = open(where, "rb").read()
    lib.lsl_streaminfo_from_xml.restype = ctypes.c_void_p
    handle = lib.lsl_streaminfo_from_xml(ctypes.c_char_p(xml))
    device = discovery._read(pylsl.StreamInfo(handle=handle))
before_mb = peak_mb()
said, labels = "nothing", []
try:
    if how == "outlet":
        attach(device)
        said = "attached"
    else:
        found = inlet.introduce(device, within_s=2.0)
        texts = found.channels if found else ()
        assert len(texts) <= 513
        assert all(len(p) <= 256 for t in texts for p in (t.label, t.unit, t.type))
        said = "introduced" if found else "no answer"
        labels = [text.label for text in texts[:2]]
except StreamClassifierError as error:
    said = type(error).__name__
print(json.dumps({"said": said, "labels": labels, "more_mb": peak_mb() - before_mb}))
"""

OUTLET = """
import sys, time, pylsl
from stream_classifier.sources.lsl_runtime import quiet_liblsl
quiet_liblsl()
info = pylsl.StreamInfo(sys.argv[1], "EEG", 2, 178.0, "float32", sys.argv[1])
info.set_channel_labels(["C3", "C4"])
info.set_channel_units("microvolts")
for _ in range(2000):
    info.desc().append_child_value("note", "y" * 5000)
outlet = pylsl.StreamOutlet(info)
print("up", flush=True)
sys.stdin.read()
"""

CHANNEL = "<channel><label>C3</label><unit>uV</unit><type>EEG</type></channel>"
LAUGHS = "".join(
    f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' if n else '<!ENTITY l0 "lol">' for n in range(10)
)
TEN_MB = 10 * 2**20


def _info(port, desc, top=""):
    return (
        f'<?xml version="1.0"?>{top}<info><name>hostile</name><type>EEG</type>'
        "<channel_count>2</channel_count><channel_format>float32</channel_format>"
        "<source_id>hostile</source_id><nominal_srate>178.0</nominal_srate>"
        "<version>1.1</version><created_at>1.0</created_at><uid>u</uid>"
        "<session_id>default</session_id><hostname>h</hostname>"
        f"<v4address>127.0.0.1</v4address><v4data_port>{port}</v4data_port>"
        f"<v4service_port>{port}</v4service_port><v6address></v6address>"
        f"<v6data_port>0</v6data_port><v6service_port>0</v6service_port>{desc}</info>"
    ).encode()


def _channels(n=2, more=""):
    return f"<desc><channels>{CHANNEL * n}</channels>{more}</desc>"


DESCRIPTIONS = {
    "entities that expand to 3 GB": lambda port: _info(
        port, _channels(more="<x>&l9;</x>"), f"<!DOCTYPE info [{LAUGHS}]>"
    ),
    "a file as an entity": lambda port: _info(
        port,
        _channels().replace("C3", "&f;"),
        '<!DOCTYPE info [<!ENTITY f SYSTEM "file:///etc/passwd">]>',
    ),
    "10 MB of channels": lambda port: _info(port, _channels(n=TEN_MB // len(CHANNEL))),
    "10 MB in one label": lambda port: _info(port, _channels().replace("C3", "x" * TEN_MB)),
    "10 MB of small nodes": lambda port: _info(port, _channels(more="<a>b</a>" * (TEN_MB // 8))),
    "nested 100,000 deep": lambda port: _info(
        port, _channels(more="<a>" * 100_000 + "</a>" * 100_000)
    ),
    "no XML": lambda _port: b"\xff\0" * 5_000_000,
    "half of it": lambda port: _info(port, _channels())[:-200],
}
LABELS = {
    "a file as an entity": ["&f;", "&f;"],
    "10 MB in one label": ["x" * 256] * 2,
    "no XML": [],
    "half of it": [],
}
BRIEF = ("entities that expand to 3 GB", "nested 100,000 deep")
"""So that ``make test`` stays short."""


class _Device(socketserver.BaseRequestHandler):
    """Speaks as much of LSL's protocol as it takes to be asked for a description."""

    def handle(self):
        asked = self.request.recv(4096)
        if asked.startswith(b"LSL:fullinfo"):
            self.request.sendall(self.server.description)


def _attach(how, where):
    done = subprocess.run(
        [sys.executable, "-c", ATTACHING, how, str(where)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind in BRIEF else pytest.mark.slow) for kind in DESCRIPTIONS],
)
def test_a_hostile_description_neither_expands_nor_crashes(kind, tmp_path, measured):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Device) as server:
        server.daemon_threads = True
        port = server.server_address[1]
        server.description = DESCRIPTIONS[kind](port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        announced = tmp_path / "announced.xml"
        announced.write_bytes(_info(port, "<desc />"))
        outcome = _attach("fake", announced)
        server.shutdown()
    more_mb = outcome["more_mb"]
    assert outcome["said"] == ("no answer" if kind in {"no XML", "half of it"} else "introduced")
    assert outcome["labels"] == LABELS.get(kind, ["C3", "C3"])
    assert more_mb < LIBLSL_MB
    short = f"{kind}: liblsl itself parses it before we see it" if more_mb > MORE_MB else ""
    measured(f"{kind}: memory more", round(more_mb), "MB", falls_short=short)


def test_a_real_outlet_with_ten_megabytes_of_description_is_attached_to(source_id, measured):
    with subprocess.Popen(
        [sys.executable, "-c", OUTLET, source_id], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as outlet:
        assert outlet.stdout.readline() == b"up\n"
        outcome = _attach("outlet", source_id)
        outlet.stdin.close()
    assert outcome["said"] == "attached"
    more_mb = outcome["more_mb"]
    assert more_mb < LIBLSL_MB
    short = "liblsl itself parses 10 MB before we see it" if more_mb > MORE_MB else ""
    measured("a real outlet with 10 MB: memory more", round(more_mb), "MB", falls_short=short)
