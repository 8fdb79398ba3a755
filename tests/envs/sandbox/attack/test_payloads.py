"""The attacks on readers and graders do what they say: against careless ones they succeed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest

from rlagents.envs.sandbox import Sandbox
from rlagents.envs.sandbox.attack import deception, deception_programs, payload_programs, payloads
from rlagents.envs.sandbox.grading import call_function

SECRET = "rlagents-canary-0123456789abcdef"


def _careless(tmp_path: Path, program: str, *args: object) -> Path:
    """Run a program where nothing holds it but a folder (it must be harmless there)."""
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tmp_path)
        exec(compile(program, "program", "exec"), {"args": list(args)})
    finally:
        os.fchdir(here)
        os.close(here)
    return tmp_path


def test_the_search_finds_a_word_wherever_it_stands() -> None:
    half = SECRET[:16]
    source = deception_programs.SEEKS
    cases = {
        "environment": ({"env": {"KEY": SECRET}}, {}, source),
        "files": ({}, {"answer.txt": SECRET.encode()}, source),
        "memory": ({}, {}, f"word = {SECRET[:20]!r} + {SECRET[20:]!r}\n{source}"),
    }
    for where, (settings, files, program) in cases.items():
        [answer] = call_function({"wall_s": 60} | settings, program, "f", [[half]], files=files)
        assert answer.answered, answer.problem
        assert any(SECRET in hit for hit in answer.value[1]), where
    [answer] = call_function({"wall_s": 60}, source, "f", [[half]])
    assert answer.value[1] == []


def test_shadow_modules_are_loaded_by_a_careless_python() -> None:
    with Sandbox() as box:
        assert int(box.python(deception_programs.PLANT).stdout) > 20
        script = "python3 -c 'import builtins, json; print(hasattr(builtins, \"PLANTED\"))'"
        assert box.run(script).stdout == "True\n"
        assert box.python("import builtins; print(hasattr(builtins, 'PLANTED'))").stdout != "True\n"


def test_objects_that_equal_everything_deceive_a_comparison_inside() -> None:
    space: dict[str, object] = {}
    exec(deception_programs.EQUAL, space)
    for kind in ("object", "int", "str", "list"):
        assert space["f"](kind) == 42  # type: ignore[operator]


def test_documents_deceive_the_plain_parser(tmp_path: Path) -> None:
    folder = _careless(tmp_path, payload_programs.DOCUMENTS)
    with pytest.raises(RecursionError):
        json.loads((folder / "deep_lists").read_bytes())
    assert json.loads((folder / "hidden_infinity").read_bytes())["score"] == float("inf")
    assert json.loads((folder / "two_scores").read_bytes())["score"] == 1.0


def test_pickles_change_a_file_when_loaded(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("unchanged")
    folder = _careless(tmp_path, payload_programs.PICKLES, str(target))
    pickle.loads((folder / "results.pkl").read_bytes())
    assert target.read_text() == "changed by code in a file"


def test_archives_hold_what_they_say() -> None:
    with Sandbox() as box:
        payloads._make(box, payload_programs.ARCHIVES, ["/outside"])
        sizes = {e.path: e.size for e in box.files()}
        assert len(sizes) == 16
        assert sizes["bomb.zip"] < 300_000 and sizes["bomb.tar.gz"] < 300_000
        script = (
            "import zipfile, tarfile\n"
            "overlapping = zipfile.ZipFile('overlapping.zip').infolist()\n"
            "print(sum(i.file_size for i in zipfile.ZipFile('bomb.zip').infolist()))\n"
            "print(len(overlapping), len({i.header_offset for i in overlapping}))\n"
            "print(tarfile.open('link.tar').getmember('link').linkname)\n"
            "try: tarfile.open('headers.tar').getmembers()\n"
            "except RecursionError: print('recursion')\n"
        )
        lines = box.python(script).stdout.splitlines()
    assert lines == [str(200 * 2**20), "501 1", "/outside", "recursion"]


def test_names_of_cases_are_words_of_their_own() -> None:
    cases = [*payloads.CASES, *deception.CASES]
    assert len({c.name for c in cases}) == len(cases) == 22
    assert all(c.name.isidentifier() and c.what and "\n" not in c.what for c in cases)
