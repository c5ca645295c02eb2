"""What benchmarks print can be read by machines."""

import json
from io import StringIO

from rich.console import Console

from voice.bench_row import percentiles, print_row


def test_a_row_is_one_line_of_json_whatever_is_in_it() -> None:
    row = {"points": [None, True], "said": ["[bold]" + "x" * 200, "[/]"]}
    console = Console(file=StringIO(), width=40)
    print_row(console, row)
    (line,) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert json.loads(line) == row


def test_percentiles_are_in_milliseconds_and_none_of_nothing() -> None:
    assert percentiles([0.1, 0.3], (50, 99.9)) == {"p50": 100.0, "p99.9": 300.0}
    assert percentiles([], (50,)) == {}
