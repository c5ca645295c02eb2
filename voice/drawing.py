"""Colours for what `latency` draws in the terminal."""

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from latency.overview import FILLS
from latency.waterfall import Line

STYLES = {
    "title": "bold",
    "name": "",
    "number": "",
    "quiet": "dim",
    "axis": "dim",
    "hidden": "grey50",
    "decided": "blue",
    "budget": "yellow",
    "over": "bold red",
    "mark": "dim",
    "framing": "grey62",
    "jitter": "grey46",
    "vad": "steel_blue",
    "endpoint": "dodger_blue2",
    "asr": "green3",
    "llm": "magenta",
    "first_phrase": "medium_purple1",
    "tools": "gold3",
    "tts": "dark_cyan",
    "send": "grey70",
    "silence": "grey37",
    "unattributed": "red",
    "ahead": "grey50",
}
"""Of every style that a piece of a drawing may have; unknown ones, of stages that others have
named, are plain."""


def painted(console: Console, lines: Iterable[Line], indent: int = 0) -> Text:
    """Return a drawing to be printed on `console`; it ends with a line break."""
    coloured = console.color_system is not None and not console.no_color
    text = Text(no_wrap=True, overflow="crop", end="")
    for line in lines:
        text.append(" " * indent)
        for piece, style in line:
            # Where there are colours, these tell neighbours apart.
            shown = piece.replace(FILLS[1], FILLS[0]) if coloured else piece
            text.append(shown, STYLES.get(style, ""))
        text.append("\n")
    return text
