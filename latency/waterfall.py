"""A turn's stages as a drawing in the terminal."""

from collections.abc import Mapping

WIDTH = 48
"""Characters of the widest bar."""


def waterfall(stages: Mapping[str, float], width: int = WIDTH) -> list[str]:
    """Return one line a stage: name, milliseconds, a bar that begins where the last ended.

    `stages` is in order, in seconds. A negative remainder is printed without a bar.
    """
    total = sum(stages.values())
    if total <= 0:
        return []
    lines, done = [], 0.0
    name_width = max(len(name) for name in stages)
    for name, seconds in stages.items():
        left = round(width * done / total)
        right = round(width * (done + max(seconds, 0.0)) / total)
        bar = "█" * (right - left) or ("▏" if seconds > 0 else "")
        lines.append(f"{name:<{name_width}} {seconds * 1000:7.1f} ms {' ' * left}{bar}")
        done += max(seconds, 0.0)
    lines.append(f"{'total':<{name_width}} {total * 1000:7.1f} ms")
    return lines
