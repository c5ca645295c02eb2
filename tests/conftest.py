import asyncio
from collections.abc import Callable, Mapping

import uvloop
from hypothesis import settings

# How long an example takes says more of the machine than of the code.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test on the loop that the server runs on."""
    return {"uvloop": uvloop.new_event_loop}
