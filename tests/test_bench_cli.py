"""The benchmarks that the documentation names can be started as it says."""

import re
from pathlib import Path

import pytest
import typer

from voice import bench_cli

ROOT = Path(__file__).parent.parent

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def told() -> list[str]:
    """Return the arguments of every `voice bench` of the documentation."""
    found = set()
    for page in PAGES:
        text = page.read_text()
        code = re.findall(r"`([^`]+)`", text) + re.findall(
            r"^(?:    )?(.*voice bench.*)$", text, re.M
        )
        for command in code:
            if "|" not in command and (
                match := re.search(r"voice bench\b((?:(?!voice bench)[^`#])*)", command)
            ):
                found.add(" ".join(match[1].replace("[", " ").replace("]", " ").split()))
    return sorted(arguments for arguments in found if arguments.startswith("--"))


def checked(arguments: str) -> None:
    app = typer.Typer()
    app.command()(bench_cli.bench)
    command = typer.main.get_command(app)
    context = command.make_context("bench", arguments.split())
    bench_cli.check(context)


def test_the_documentation_names_benchmarks() -> None:
    assert len(told()) > 15
    assert any("--what loop" in arguments for arguments in told())


@pytest.mark.parametrize("arguments", told())
def test_a_benchmark_of_the_documentation_takes_its_options(arguments: str) -> None:
    checked(arguments)


def test_an_option_that_changes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="--minutes has no effect on --what pauses"):
        checked("--profile bench --what pauses --minutes 3")
    with pytest.raises(ValueError, match="--reply has no effect on --find-capacity"):
        checked("--find-capacity --reply 1")
    checked("--find-capacity --profile bench --reply 1")
