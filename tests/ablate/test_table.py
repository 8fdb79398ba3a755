import io
import json
from pathlib import Path

from rich.console import Console

from rlagents.ablate.compare import compare
from rlagents.ablate.table import as_json, as_markdown, as_rich
from tests.ablate.runs import planned, result
from tests.ablate.test_compare import ALL, METRICS, SLOW


def test_markdown(tmp_path: Path) -> None:
    text = as_markdown(compare(planned(tmp_path), ALL, 0.7), ["a, seed 2: it\nbroke \x1b[2J"])
    assert (
        text
        == """\
Score

| arm | runs | final score | at equal tokens |
| --- | ---: | ---: | ---: |
| lr=0.001 | 2 of 2 | 0.700 [-0.571, 1.971] | 0.550 [-0.085, 1.185] |
| lr=0.002 | 2 of 2 | 0.900 [0.900, 0.900] | 0.900 [0.900, 0.900] |

Cost

| arm | tokens to threshold | reached by | tokens | steps | seconds |
| --- | ---: | ---: | ---: | ---: | ---: |
| lr=0.001 | > 375 | 1 of 2 | 400 | 4 | 10 |
| lr=0.002 | 150 [-485, 785] | 2 of 2 | 300 | 2 | 1 |

Difference to lr=0.001, paired by seed

| arm | final score | at equal tokens | tokens to threshold |
| --- | ---: | ---: | ---: |
| lr=0.002 | +0.200 [-1.071, +1.471] | +0.350 [-0.285, +0.985] | < x 0.38 |

- means over seeds with 95% t-intervals; tokens are sampled ones, discarded included
- tokens to threshold are compared by the geometric mean of the seeds' ratios
- curves are made of held-out scores, linear between points
- equal tokens: 300, the most that every run's curve has
- threshold: 0.700

Failed:

- a, seed 2: it broke \\x1b[2J
"""
    )


def test_metrics_have_a_table_where_they_are_asked_for(tmp_path: Path) -> None:
    made = planned(tmp_path)
    comparison = compare(made, METRICS, tags=("m", "silent"))
    table = """\
Metrics

| metric | arm | mean | at the end | difference |
| --- | --- | ---: | ---: | ---: |
| m | lr=0.001 | 3 [-9.706, 15.71] | 1.5 [-4.853, 7.853] | - |
| m | lr=0.002 | 5 [5, 5] | 2.5 [-10.21, 15.21] | +1 [-5.353, +7.353] |
| silent | lr=0.001 | - | - | - |
| silent | lr=0.002 | - | - | - |
"""
    text = as_markdown(comparison)
    assert table in text
    assert "- differences of metrics: at the end, to lr=0.001, paired by seed\n" in text
    first, second, *_ = json.loads(as_json(comparison, METRICS))["figures"]
    assert (first["tag"], first["arm"], first["end_difference"]) == ("m", "lr=0.001", None)
    assert (second["mean"]["mean"], second["end"]["mean"]) == (5, 2.5)
    assert second["end_difference"]["n"] == 2
    *_, shown = as_rich(comparison)
    assert shown.row_count == 4
    plain = compare(made, METRICS)
    assert "metric" not in as_markdown(plain).replace("geometric", "").lower()
    content = json.loads(as_json(plain, METRICS))
    assert "figures" not in content and "metrics" not in content["runs"][0]


def test_one_arm_one_seed_and_no_scores(tmp_path: Path) -> None:
    made = planned(tmp_path, vary=["policy.system='a|b'"], seeds="0")
    text = as_markdown(compare(made, [result("system=a|b", 0)]))
    assert "| system=a\\|b | 1 of 1 | - | - |" in text
    assert "| system=a\\|b | - | - | 100 | 2 | 1 |" in text
    assert "Difference" not in text and "equal tokens:" not in text
    assert "curves are made of scores of training rollouts" in text
    assert "no threshold: no arm came above its start" in text


def test_the_terminal_shows_the_same(tmp_path: Path) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=100)
    for table in as_rich(compare(planned(tmp_path), ALL, 0.7)):
        console.print(table)
    shown = stream.getvalue()
    for cell in ("0.700 [-0.571, 1.971]", "> 375", "1 of 2", "+0.350 [-0.285, +0.985]", "< x 0.38"):
        assert cell in shown


def test_json_has_the_runs_too(tmp_path: Path) -> None:
    content = json.loads(as_json(compare(planned(tmp_path), SLOW), SLOW))
    assert content["budget"] == 400
    first, second = content["rows"]
    assert (first["runs"], second["runs"], second["final"]) == (2, 0, None)
    assert first["final"]["n"] == 2
    assert [run["seed"] for run in content["runs"]] == [0, 1]
    assert content["runs"][0]["held_out"] == [[0.0, 0.0], [200.0, 0.4], [400.0, 0.6]]
