"""Every notebook runs from top to bottom, and is committed without outputs."""

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def executed(path: Path, folder: Path, **variables: str) -> list[Any]:
    """The code cells of a notebook after it ran in `folder`; a cell that raises ends the test."""
    notebook = nbformat.read(path, as_version=4)
    clean = {name: value for name, value in os.environ.items() if name != "RUN_DIR"}
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}})
    client.execute(env={**clean, "PYTHONPATH": str(ROOT), **variables})
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cells: list[Any]) -> str:
    return "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for cell in cells
        for output in cell.outputs
    )


def test_there_are_notebooks() -> None:
    assert [path.name for path in NOTEBOOKS] == ["read_a_run.ipynb", "train_under_trl.ipynb"]


def pictures(cells: list[Any]) -> int:
    """How many there are among the outputs, none of which is on standard error."""
    found = [output for cell in cells for output in cell.outputs]
    assert [output for output in found if output.get("name") == "stderr"] == []
    return sum("image/png" in output.get("data", {}) for output in found)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs_for_any_kernel(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or (not cell.outputs and cell.execution_count is None)


def test_read_a_run_works_without_and_then_with_a_run_folder(tmp_path: Path) -> None:
    path = ROOT / "notebooks" / "read_a_run.ipynb"
    cells = executed(path, tmp_path)
    assert pictures(cells) == 1
    first = printed(cells)
    [run] = (tmp_path / "runs" / "notebook").iterdir()
    assert first.startswith(f"{run}\n")
    assert "every sampled token once: True" in first and "segments fit the window: True" in first

    (elsewhere := tmp_path / "elsewhere").mkdir()
    assert printed(executed(path, elsewhere, RUN_DIR=str(run))) == first
    assert list(elsewhere.iterdir()) == []  # it read, and trained nothing


def test_train_under_trl_learns(tmp_path: Path) -> None:
    cells = executed(ROOT / "notebooks" / "train_under_trl.ipynb", tmp_path)
    assert pictures(cells) == 1
    text = printed(cells)
    rewards = [
        float(number) for number in re.findall(r"mean score of each step: (.*)", text)[0].split()
    ]
    assert len(rewards) == 8 and rewards[-1] > rewards[0] + 0.2
    assert "observed\n" in text and "sampled, log-probability" in text
    assert re.search(r"on held-out tasks: [01]\.\d\d under TRL, [01]\.\d\d under ours", text)
