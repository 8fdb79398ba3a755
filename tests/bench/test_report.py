from __future__ import annotations

import json

from rlagents.bench.report import Result, figure, machine


def test_json_and_table() -> None:
    result = Result(
        bench="toy",
        machine=machine(threads=1),
        rows=[{"measured": "engine", "value": 2.0}, {"measured": "loop", "value": 0.123456}],
        figures={"speedup": figure([4.0, 2.0, 9.0])},
    )
    read = json.loads(result.to_json())
    assert read["figures"] == {"speedup": {"median": 4.0, "low": 2.0, "high": 9.0}}
    assert read["machine"]["threads"] == 1
    assert read["rows"][1] == {"measured": "loop", "value": 0.123456}
    assert result.table().splitlines() == [
        "measured  value",
        "engine    2",
        "loop      0.1235",
        "speedup: 4 (2 to 9)",
    ]
