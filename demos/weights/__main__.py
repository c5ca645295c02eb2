"""Make a model with random weights: python -m demos.weights KIND SIZE FOLDER."""

import argparse
import sys
import time
from pathlib import Path

from . import KINDS, make


def main() -> int:
    """Make what the command line asks for; return 1 if that cannot be."""
    parser = argparse.ArgumentParser(prog="python -m demos.weights", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("size", help='for example "tiny"; a wrong one is answered with all of them')
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    begun = time.monotonic()
    try:
        folder = make(given.kind, given.size, given.folder)
    except (ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB, {time.monotonic() - begun:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
