"""libopus itself, called directly.

PyAV carries a libopus, and goes to it by way of packets, frames and a resampler: 55 us
to decode 20 ms, 170 to encode it. libopus decodes straight to the rate we listen at (20
us) and, called directly, conceals a loss from the packet after it. Where it is not found,
`transport.codec` falls back to PyAV.
"""

import ctypes
import ctypes.util
import importlib.util
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

Pcm = NDArray[np.float32]
"""Mono samples in [-1, 1], shape (n,)."""

LONGEST = 0.12
"""Seconds that one packet may hold (RFC 6716, section 2.1.4)."""

LARGEST = 1275
"""Bytes of one encoded frame at most (RFC 6716, section 3.2.1)."""

VOIP: Final = 2048
BIT_RATE: Final = 4002
COMPLEXITY: Final = 4010
INBAND_FEC: Final = 4012
PACKET_LOSS: Final = 4014
"""OPUS_APPLICATION_VOIP and requests of `opus_encoder_ctl`, from opus_defines.h."""

POINTER = ctypes.c_void_p
INT = ctypes.c_int


@cache
def library() -> ctypes.CDLL | None:
    """Return libopus: the one that PyAV's wheel carries, else the system's, else None."""
    carried: list[str] = []
    if (av := importlib.util.find_spec("av")) is not None and av.origin:
        package = Path(av.origin).parent
        for folder in (package.parent / "av.libs", package / ".dylibs"):
            carried += map(str, sorted(folder.glob("libopus*")))
    for name in (*carried, ctypes.util.find_library("opus")):
        if name:
            try:
                return _declared(ctypes.CDLL(name))
            except (OSError, AttributeError):
                continue
    return None


def _declared(lib: ctypes.CDLL) -> ctypes.CDLL:
    """Declare what is called here.

    Raises:
        AttributeError: If `lib` lacks any of it.
    """
    for name, result, *arguments in (
        ("opus_decoder_create", POINTER, INT, INT, POINTER),
        ("opus_decoder_destroy", None, POINTER),
        ("opus_decode_float", INT, POINTER, ctypes.c_char_p, INT, POINTER, INT, INT),
        ("opus_encoder_create", POINTER, INT, INT, INT, POINTER),
        ("opus_encoder_destroy", None, POINTER),
        ("opus_encode_float", INT, POINTER, POINTER, INT, POINTER, INT),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    lib.opus_encoder_ctl.restype = INT
    return lib


class OpusDecoder:
    """One stream of packets, decoded to mono at `rate`. For one thread at a time."""

    def __init__(self, lib: ctypes.CDLL, rate: int) -> None:
        self._lib, self._rate = lib, rate
        self._pcm = np.empty(round(LONGEST * rate), np.float32)
        self._address = self._pcm.ctypes.data
        self._state = lib.opus_decoder_create(rate, 1, None)
        if not self._state:
            raise MemoryError(f"libopus makes no decoder for {rate} Hz")

    def decode(self, payload: bytes) -> Pcm | None:
        """Return the samples of the next packet, or None if it is broken."""
        return self._decoded(payload, len(self._pcm), 0)

    def conceal(self, samples: int, following: bytes | None = None) -> Pcm | None:
        """Return a stand-in for `samples` at `rate` that were lost.

        What `following`, the packet after them, says of its predecessor goes into its end.
        """
        return self._decoded(following, samples, 1 if following else 0)

    def _decoded(self, payload: bytes | None, samples: int, fec: int) -> Pcm | None:
        length = len(payload) if payload else 0
        count = self._lib.opus_decode_float(
            self._state, payload, length, self._address, samples, fec
        )
        return self._pcm[:count].copy() if count >= 0 else None

    def __del__(self) -> None:
        if getattr(self, "_state", None):
            self._lib.opus_decoder_destroy(self._state)


class OpusEncoder:
    """Frames of mono speech at `rate` to packets. For one thread at a time."""

    def __init__(
        self, lib: ctypes.CDLL, rate: int, *, bit_rate: int, complexity: int, loss: int
    ) -> None:
        """Encode at `bit_rate` bits a second; repair what is lost where `loss` percent are."""
        self._lib = lib
        self._packet = np.empty(LARGEST, np.uint8)
        self._address = self._packet.ctypes.data
        self._state = lib.opus_encoder_create(rate, 1, VOIP, None)
        if not self._state:
            raise MemoryError(f"libopus makes no encoder for {rate} Hz")
        for request, value in (
            (BIT_RATE, bit_rate),
            (COMPLEXITY, complexity),
            (INBAND_FEC, 1),
            (PACKET_LOSS, loss),
        ):
            lib.opus_encoder_ctl(POINTER(self._state), request, INT(value))

    def encode(self, frame: Pcm) -> bytes:
        """Return the packet of one frame, contiguous, of 2.5 to 60 ms."""
        size = self._lib.opus_encode_float(
            self._state, frame.ctypes.data, len(frame), self._address, LARGEST
        )
        if size < 0:
            raise ValueError(f"libopus refuses a frame of {len(frame)} samples (error {size})")
        return self._packet[:size].tobytes()

    def __del__(self) -> None:
        if getattr(self, "_state", None):
            self._lib.opus_encoder_destroy(self._state)
