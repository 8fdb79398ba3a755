"""Bytes of an agent become a value of plain types, or `UnsafeFile`, and nothing else happens."""

from __future__ import annotations

import io
import json
import math
import pickle
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.envs.sandbox import reading
from rlagents.envs.sandbox.files import UnsafeFile

MIB = 2**20


# JSON and texts


@pytest.mark.parametrize(
    "data",
    [
        b"NaN",
        b"[-Infinity]",
        b'{"score": Infinity}',
        b"1e999",
        b"-1e999",
        b'{"score": 0, "score": 1}',
        b'[{"a": {"b": 1, "b": 1}}]',
        b"9" * 1001,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 65 + b"]" * 65,
        b'"\\ud800"',
        b'{"\\udc00": 1}',
        b'"\xff"',
        b"\xef\xbb\xbf1",
        b"\xff\xfe1\x00",
        b"",
        b"01",
        b"1 2",
        b"[1,]",
        b"'a'",
        b'"\n"',
        b"\x80\x04N.",
    ],
)
def test_what_is_no_json_value_is_refused(data: bytes) -> None:
    with pytest.raises(UnsafeFile):
        reading.json_value(data)


def test_json_is_bounded_in_size_and_depth() -> None:
    assert reading.json_value(b"[" * 64 + b"]" * 64) is not None
    assert reading.json_value(b"[[]]", depth=2) == [[]]
    with pytest.raises(UnsafeFile, match="deeper than 1"):
        reading.json_value(b'{"a": []}', depth=1)
    assert reading.json_value(b"[0]", limit=3) == [0]
    with pytest.raises(UnsafeFile, match="3 bytes, more than 2"):
        reading.json_value(b"[0]", limit=2)
    assert reading.json_value(b"9" * 1000) == 10**1000 - 1


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**300), 10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
    max_leaves=20,
)


@given(_JSON)
def test_json_values_come_back_as_they_were(value: Any) -> None:
    got = reading.json_value(json.dumps(value).encode())
    assert got == value and repr(got) == repr(value)


@given(st.binary(max_size=200) | st.text('[]{}",:0123456789.eE+-\\uaNIntrfls ').map(str.encode))
def test_any_bytes_are_json_or_refused(data: bytes) -> None:
    try:
        value = reading.json_value(data)
    except UnsafeFile:
        return
    assert reading.json_value(json.dumps(value, allow_nan=False).encode()) == value


def test_texts_show_what_they_do_to_a_terminal() -> None:
    assert reading.text(b"\x1b]52;c;aGk=\x07\tx\n") == "\\x1b]52;c;aGk=\\x07\tx\n"
    assert reading.text("\u202egpj.\x9b2J \u2028é".encode()) == "\\u202egpj.\\x9b2J \\u2028é"
    assert reading.text(b"a\xffb") == "a\ufffdb"
    with pytest.raises(UnsafeFile):
        reading.text(b"abc", limit=2)


@given(st.binary(max_size=200))
def test_no_text_has_a_control_character(data: bytes) -> None:
    for char in reading.text(data):
        assert char in "\n\t" or char.isprintable() or char.isspace()
        assert not 0x7F <= ord(char) < 0xA0


# Arrays


def _npy(array: np.ndarray, **options: bool) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def _npy_of(header: str, body: bytes = b"") -> bytes:
    raw = header.encode("latin-1")
    return b"\x93NUMPY\2\0" + struct.pack("<I", len(raw)) + raw + body


ARRAYS = [
    np.arange(6).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array(3.0),
    np.zeros((0, 5), np.int8),
    np.array([True, False]),
    np.arange(3, dtype=">i2"),
    np.array([1j, np.nan]),
    np.arange(24, dtype=np.float16).reshape(1, 2, 3, 4),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}-{a.shape}")
def test_arrays_come_back_as_they_were_but_read_only(array: np.ndarray) -> None:
    got = reading.npy(_npy(array))
    assert got.dtype == array.dtype and got.shape == array.shape
    assert np.array_equal(got, array, equal_nan=array.dtype.kind in "fc")
    assert not got.flags.writeable


class _Mark:
    """Unpickling it would say so."""

    loaded = False

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (setattr, (_Mark, "loaded", True))


def test_nothing_is_ever_unpickled() -> None:
    pickled = pickle.dumps(_Mark())
    objects = _npy(np.array([_Mark()], dtype=object), allow_pickle=True)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:  # as torch.save writes it
        archive.writestr("archive/data.pkl", pickled)
    readers = (reading.npy, reading.npz, reading.safetensors, reading.json_value, reading.untar)
    for data in (pickled, objects, packed.getvalue()):
        for read in readers:
            with pytest.raises(UnsafeFile):
                read(data)
    assert not _Mark.loaded


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999, 999999), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2305843009213693952, 8), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999999999, 0), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1, " * 40 + "), }",
        "{'descr': '<f16', 'fortran_order': False, 'shape': (), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<U2', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '|V8', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': __import__('os').system('x'), }",
        "[" * 9000,
        "-" * 9000 + "1",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }" + " " * 20_000,
        "",
    ],
)
def test_headers_of_arrays_are_not_believed(header: str) -> None:
    with pytest.raises(UnsafeFile):
        reading.npy(_npy_of(header, b"12345678"))


def test_no_byte_makes_a_third_truth_value() -> None:
    header = "{'descr': '|b1', 'fortran_order': False, 'shape': (3,), }"
    got = reading.npy(_npy_of(header, b"\0\1\2"))
    assert got.tolist() == [False, True, True] and got.view(np.uint8).tolist() == [0, 1, 1]


def test_archives_of_arrays() -> None:
    out = io.BytesIO()
    np.savez_compressed(out, a=np.zeros(10**6), b=np.arange(3))
    got = reading.npz(out.getvalue())
    assert got["a"].shape == (10**6,) and got["b"].tolist() == [0, 1, 2]
    with pytest.raises(UnsafeFile, match="more than"):
        reading.npz(out.getvalue(), reading.Limits(total=MIB, ratio=1e9))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.npy", _npy(np.arange(2)))
        archive.writestr("readme", b"")
    with pytest.raises(UnsafeFile, match="not an array"):
        reading.npz(out.getvalue())


def _tensors(header: object, body: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def _one(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


def test_tensors_come_back_read_only() -> None:
    arrays = {"a": np.arange(3.0), "b/c": np.array([[True]]), "é": np.zeros((0, 2), np.int8)}
    got = reading.safetensors(safetensors.numpy.save(arrays, metadata={"k": "v"}))
    assert got.keys() == arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(got[name], array) and got[name].dtype == array.dtype
        assert not got[name].flags.writeable
    half = reading.safetensors(_tensors(_one("BF16", [2], 0, 4), b"\x80\x3f\x00\xc0"))["a"]
    assert half.dtype == np.float32 and half.tolist() == [1.0, -2.0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        b"\xff" * 7 + b"\x7f{}",
        _tensors([]),
        _tensors(_one("F64", [1], 0, 8), b"1234567"),
        _tensors(_one("F64", [1], 0, 8), b"123456789"),
        _tensors(_one("F64", [1], 8, 0), b"12345678"),
        _tensors(_one("F64", [2**61, 8], 0, 8), b"12345678"),
        _tensors(_one("F64", [2**62, 0], 0, 0)),
        _tensors(_one("F64", [-1], 0, 8), b"12345678"),
        _tensors(_one("OBJ", [1], 0, 8), b"12345678"),
        _tensors(_one("F4", [2], 0, 1), b"1"),
        _tensors(b"[" * 100_000),
        _tensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},' * 2 + b'"b":0}', b"12"),
        _tensors(b"{" + b" " * 2 * MIB + b"}"),
    ],
)
def test_broken_tensors_are_refused(data: bytes) -> None:
    with pytest.raises(UnsafeFile):
        reading.safetensors(data)


def test_reading_needs_no_torch() -> None:
    code = (
        "import sys; from rlagents.envs.sandbox import reading; "
        "reading.safetensors((2).to_bytes(8, 'little') + b'{}'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# Archives


def _zip(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, mode: int = 0) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = method, mode << 16
            archive.writestr(info, content)
    return out.getvalue()


def _tar(
    members: dict[str, bytes], form: int = tarfile.GNU_FORMAT, mode: Any = "w", **fields: Any
) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=form) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


MEMBERS = {"a": b"1", "b/c d": b"", "b/é\n": b"x" * 1000, "./e": b"2"}
WANTED = {"a": b"1", "b/c d": b"", "b/é\n": b"x" * 1000, "e": b"2"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_archives(method: int) -> None:
    assert reading.unzip(_zip(MEMBERS | {"folder/": b""}, method)) == WANTED


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_archives(form: int, mode: str) -> None:
    long = {} if form == tarfile.USTAR_FORMAT else {"d/" * 10 + "n" * 200: b"long"}
    split = {"d" * 90 + "/" + "n" * 90: b"split in two fields by ustar"}
    got = reading.untar(_tar(MEMBERS | split | long, form, mode))
    assert got == WANTED | split | long


_NAMES = ["/etc/passwd", "../x", "a/../../x", "..", ""]


@pytest.mark.parametrize("name", _NAMES)
def test_names_that_leave_an_archive(name: str) -> None:
    with pytest.raises(UnsafeFile):
        reading.unzip(_zip({name: b"x"}))
    with pytest.raises(UnsafeFile):
        reading.untar(_tar({name: b"x"}))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_devices_in_zips(kind: int) -> None:
    with pytest.raises(UnsafeFile, match="link or a device"):
        reading.unzip(_zip({"a": b"/etc/passwd"}, mode=kind | 0o777))


@pytest.mark.parametrize("kind", list(b"12346S7KVZ"))
def test_links_and_devices_in_tars(kind: int) -> None:
    header = bytearray(_tar({"a": b""})[:512])
    header[156] = kind
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(UnsafeFile, match="link"):
        reading.untar(bytes(header))


def test_a_name_may_come_once() -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = io.BytesIO()
        with zipfile.ZipFile(twice, "w") as archive:
            archive.writestr("a", b"1")
            archive.writestr("a", b"2")
    with pytest.raises(UnsafeFile, match="twice"):
        reading.unzip(twice.getvalue())
    with pytest.raises(UnsafeFile, match="twice"):
        reading.untar(_tar({"a": b"1", "./a": b"2"}))


def test_bombs_are_not_unpacked() -> None:
    bomb = _zip({"bomb": b"\0" * (80 * MIB)})
    assert len(bomb) < MIB
    with pytest.raises(UnsafeFile, match="more than"):
        reading.unzip(bomb)
    with pytest.raises(UnsafeFile, match="unpack"):
        reading.unzip(_zip({"bomb": b"\0" * (8 * MIB)}))
    with pytest.raises(UnsafeFile, match="more than"):
        reading.untar(zlib.compress(b"\0" * (80 * MIB), wbits=31), reading.Limits(members=10))
    with pytest.raises(UnsafeFile, match="unpacked"):
        reading.untar(zlib.compress(b"\0" * (8 * MIB), wbits=31))
    many = reading.Limits(members=2)
    for read, data in ((reading.unzip, _zip(MEMBERS)), (reading.untar, _tar(MEMBERS))):
        with pytest.raises(UnsafeFile, match="more than 2 members"):
            read(data, many)


def test_a_zip_whose_members_overlap() -> None:
    # All entries of the directory name the same packed bytes: each would be unpacked again.
    plain = _zip({"aa": bytes(100_000)}, zipfile.ZIP_STORED)
    end = plain.rfind(b"PK\5\6")
    begin = plain.rfind(b"PK\1\2", 0, end)
    entry = plain[begin:end]
    other = entry.replace(b"aa", b"bb")
    tail = bytearray(plain[end:])
    struct.pack_into("<HHI", tail, 8, 2, 2, 2 * len(entry))
    with pytest.raises(UnsafeFile, match="overlap"):
        reading.unzip(plain[:begin] + entry + other + bytes(tail))


def test_a_zip_may_not_lie_about_sizes_and_methods() -> None:
    plain = bytearray(_zip({"a": b"x" * 1000}))
    begin = plain.rfind(b"PK\1\2")
    struct.pack_into("<I", plain, begin + 24, 10)  # unpacks to more than it says
    with pytest.raises(UnsafeFile):
        reading.unzip(bytes(plain))
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        with pytest.raises(UnsafeFile, match="neither stored nor deflated"):
            reading.unzip(_zip({"a": b"x"}, method))
    secret = bytearray(_zip({"a": b"x"}))
    secret[secret.rfind(b"PK\1\2") + 8] |= 1
    with pytest.raises(UnsafeFile, match="encrypted"):
        reading.unzip(bytes(secret))


@pytest.mark.parametrize("kind", [b"L", b"x"])
def test_a_thousand_headers_in_front_of_each_other(kind: bytes) -> None:
    # tarfile goes down one call for each.
    one = bytearray(_tar({"a": b""})[:512])
    one[156:157] = kind
    one[148:156] = b" " * 8
    one[148:156] = b"%06o\0 " % sum(one)
    assert reading.untar(bytes(one) * 5000 + _tar({"a": b"1"})) == {"a": b"1"}
    with pytest.raises(UnsafeFile, match="members"):
        reading.untar(bytes(one) * 5000, reading.Limits(members=1000))


def test_sizes_of_tar_members_are_plain_and_there() -> None:
    whole = _tar({"a": b"x" * 600})
    for size in (b"-0000000001\0", b"\x80" + b"\xff" * 11, b"77777777777\0", b"0x0000000ff\0"):
        header = bytearray(whole[:512])
        header[124:136] = size
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        with pytest.raises(UnsafeFile):
            reading.untar(bytes(header) + whole[512:])
    with pytest.raises(UnsafeFile, match="torn"):
        reading.untar(whole[:1000])


@pytest.mark.parametrize(
    "pax",
    [{"size": "1"}, {"GNU.sparse.major": "1"}, {"path": "../x"}, {"path": "a" * 70_000}],
)
def test_extended_headers_of_tars(pax: dict[str, str]) -> None:
    with pytest.raises(UnsafeFile):
        reading.untar(_tar({"a": b"x"}, tarfile.PAX_FORMAT, pax_headers=pax))


READERS: dict[str, Callable[[bytes], object]] = {
    "json": reading.json_value,
    "npy": reading.npy,
    "npz": reading.npz,
    "safetensors": reading.safetensors,
    "unzip": reading.unzip,
    "untar": reading.untar,
}


def _samples() -> dict[str, bytes]:
    npz = io.BytesIO()
    np.savez_compressed(npz, a=np.arange(20), b=np.ones((2, 2)))
    return {
        "json": json.dumps({"a": [1, 2.5, None, "é\n"], "b": {"c": []}}).encode(),
        "npy": _npy(np.arange(12.0).reshape(3, 4)),
        "npz": npz.getvalue(),
        "safetensors": safetensors.numpy.save({"a": np.arange(3.0), "b": np.array([True])}),
        "unzip": _zip(MEMBERS),
        "untar": _tar(MEMBERS | {"n" * 200: b"1"}, tarfile.PAX_FORMAT),
    }


SAMPLES = _samples()


@settings(max_examples=150, deadline=None)
@given(st.data())
@pytest.mark.parametrize("name", READERS)
def test_broken_files_give_a_value_or_are_refused(name: str, data: st.DataObject) -> None:
    raw = bytearray(SAMPLES[name])
    places = st.integers(0, len(raw) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=6)):
        raw[place] = value
    if data.draw(st.booleans()):
        del raw[data.draw(places) :]
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(raw)))
        raw[place:place] = data.draw(st.binary(max_size=20))
    try:
        READERS[name](bytes(raw))
    except UnsafeFile as error:
        assert len(str(error)) < 3000


@settings(max_examples=100)
@given(st.binary(max_size=600))
@pytest.mark.parametrize("name", READERS)
def test_any_bytes_give_a_value_or_are_refused(name: str, data: bytes) -> None:
    for start in (b"", SAMPLES[name][:8]):
        try:
            READERS[name](start + data)
        except UnsafeFile:
            continue


def test_finite_is_what_a_caller_may_ask_of_an_array() -> None:
    got = reading.npy(_npy(np.array([1.0, math.inf])))
    assert np.isinf(got[1])
