"""What the tests of real engines share: a calm environment, and models made once.

`make test-engines` runs them in an environment with torch, vLLM and Coqui. A plain `make test`
does not come here.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ |= {
    "HF_HUB_OFFLINE": "1",  # nothing may depend on a download
    "OMP_NUM_THREADS": "1",  # several libraries of threads on two cores wait for each other
    "TOKENIZERS_PARALLELISM": "false",  # vLLM forks after tokenizers were used
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}

from demos import weights as recipes

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent

LONGEST = 300
"""Seconds of one test that says nothing else: importing vLLM takes 20, starting it up to 50."""


def pytest_configure(config: pytest.Config) -> None:
    """Let libraries warn; what our own modules warn of stays an error."""
    config.addinivalue_line("filterwarnings", "default")
    config.addinivalue_line(
        "filterwarnings", r"error:::(asr|llm|tts|voice|transport|latency)(\.|$)"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test here the time that loading takes."""
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LONGEST))


@pytest.fixture(scope="session")
def weights() -> Callable[[str, str], Path]:
    """Return what makes a model of a kind and size ("whisper", "tiny"), or finds it made.

    Models stay in build/ for the next run, until their recipe changes.
    """

    def made(kind: str, size: str) -> Path:
        recipe = (ROOT / "demos/weights" / f"{kind}.py").read_bytes()
        name = f"{kind}-{size}-{hashlib.sha256(recipe).hexdigest()[:8]}"
        return recipes.make(kind, size, ROOT / "build/weights" / name)

    return made
