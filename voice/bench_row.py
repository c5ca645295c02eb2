"""What every benchmark prints: JSON, a line a run, with percentiles in milliseconds."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from latency.trace import percentile


def print_row(console: Console, row: Mapping[str, Any]) -> None:
    """Print one line; nothing in it is markup."""
    console.print(json.dumps(row), soft_wrap=True, highlight=False, markup=False)


def percentiles(seconds: Sequence[float], percents: Sequence[float]) -> dict[str, float]:
    """Return percentiles in milliseconds, none where there are no values."""
    return {f"p{n:g}": round(1000 * percentile(seconds, n), 1) for n in percents if seconds}


def machine() -> dict[str, str]:
    """Return where a figure was taken."""
    return {
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} x {platform.machine()}",
    }
