"""The processor that torch runs a voice on.

Only the thread that runs the model uses it: torch keeps its threads and its streams per thread.
"""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tts.engine import EngineError


class Device:
    """A CPU or a GPU, set up for inference."""

    def __init__(self, name: str, *, half: bool, threads: int) -> None:
        """Choose by name ("auto", "cpu", "cuda", "cuda:1"); `half` holds on a GPU only.

        Raises:
            EngineError: If torch is not installed, or there is no such GPU.
        """
        try:
            import torch
        except ImportError as error:
            raise EngineError(
                f"torch does not load ({error}); install it with `pip install torch`"
            ) from error
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise EngineError(
                f"coqui.device is {name!r}, but torch sees no GPU; set it to cpu or auto,"
                " or install a build of torch for this machine's GPU"
            )
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name != "cpu":
            number, count = int(name.partition(":")[2] or 0), torch.cuda.device_count()
            if number >= count:
                raise EngineError(f"coqui.device is {name!r}, but this machine has {count} GPU(s)")
            name = f"cuda:{number}"
        self.torch = torch.device(name)
        self.cuda = self.torch.type == "cuda"
        self.dtype = torch.float16 if half and self.cuda else torch.float32
        self._threads = threads
        self._streams: tuple[Any, Any] | None = None

    def enter(self) -> Any:
        """Prepare the calling thread; returns the context in which to run everything."""
        import torch

        if self._threads:
            torch.set_num_threads(self._threads)
        if self.cuda:
            torch.cuda.set_device(self.torch)
            # Lower numbers are served first, among the streams of this process.
            self._streams = torch.cuda.Stream(priority=0), torch.cuda.Stream(priority=-1)
        return torch.inference_mode()

    def stream(self, *, urgent: bool) -> AbstractContextManager[Any]:
        """Return the context of one step; an `urgent` one overtakes others on a GPU.

        The step must end with a copy to the CPU: what it computed is then there for a step
        on the other stream.
        """
        import torch

        if self._streams is None:
            return nullcontext()
        context: AbstractContextManager[Any] = torch.cuda.stream(self._streams[urgent])
        return context

    def synchronise(self) -> None:
        """Wait until what was asked for has been computed."""
        import torch

        if self.cuda:
            torch.cuda.current_stream().synchronize()

    def free(self) -> None:
        """Give back memory that torch keeps for later."""
        import torch

        if self.cuda:
            torch.cuda.empty_cache()


def out_of_memory(error: Exception) -> bool:
    """Return whether a step failed because memory ran out; the model is then still sound."""
    torch = sys.modules.get("torch")
    kinds = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    # The CPU's allocator raises a plain RuntimeError.
    return isinstance(error, kinds) or "can't allocate memory" in str(error)
