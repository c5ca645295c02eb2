"""Silero's network (v6, 16 kHz) in numpy: windows of many calls go in, probabilities come out.

It is small: half a million multiplications a window. As matrix products over
all calls' windows they take 13 us of CPU a window with 64 calls and 57 with
one; onnxruntime takes 80 on the same core and cannot batch calls, because the
batch axis of the file is time (docs/vad.md has the figures). The weights are
read from that file, so there is nothing to convert.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asr.engine import Pcm

WINDOW = 512
"""Samples the network looks at in one step (32 ms)."""

CONTEXT = 64
"""Samples before each window that it wants to see again."""

UNITS = 128
"""Width of the network's memory; a state is two of them, output and cell."""

FRAME, HOP = 256, 128
"""Samples of a spectrum, and from one to the next; a window has four."""

MIRRORED = 192
"""Samples of the last of them after which the window is over and comes back as in a mirror."""

BINS = FRAME // 2 + 1

SHAPES = {
    "encoder.feature_extractor.forward_basis_buffer": (2 * BINS, FRAME),
    "encoder.conv_layers.0.weight": (128, BINS, 3),
    "encoder.conv_layers.0.bias": (128,),
    "encoder.conv_layers.1.weight": (64, 128, 3),
    "encoder.conv_layers.1.bias": (64,),
    "encoder.conv_layers.2.weight": (64, 64, 3),
    "encoder.conv_layers.2.bias": (64,),
    "encoder.conv_layers.3.weight": (128, 64, 3),
    "encoder.conv_layers.3.bias": (128,),
    "onnx::LSTM_209": (4 * UNITS, UNITS),
    "onnx::LSTM_210": (4 * UNITS, UNITS),
    "onnx::LSTM_211": (2, 4 * UNITS),
    "decoder.conv1d.weight": (UNITS,),
    "decoder.conv1d.bias": (1,),
}
"""Tensors of the file; its gates come in the order input, output, forget, cell."""


class Silero:
    """The network; it keeps no call's state, and any thread may run it."""

    def __init__(self, path: Path) -> None:
        tensors = read_tensors(path)
        try:
            weights = {name: tensors[name].reshape(shape) for name, shape in SHAPES.items()}
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{path} is not Silero v6 as faster-whisper 1.2 ships it ({error})"
            ) from None
        convolutions = [weights[f"encoder.conv_layers.{n}.weight"] for n in range(4)]
        biases = [weights[f"encoder.conv_layers.{n}.bias"] for n in range(4)]
        # (tap, in, out), in C order: products with the other order cost half as much again
        taps = [np.ascontiguousarray(layer.transpose(2, 1, 0)) for layer in convolutions]
        basis = weights["encoder.feature_extractor.forward_basis_buffer"]
        self._basis = np.ascontiguousarray(basis.T)  # cosines, then sines, under a Hann window
        self._conv0, self._bias0 = np.concatenate(taps[0], axis=1), biases[0]
        # four positions in, two out (stride 2): one product with the taps laid out for both
        both = np.zeros((4, 128, 2, 64), np.float32)
        for place, tap in ((0, 1), (1, 2)):
            both[place, :, 0] = taps[1][tap]
        for place, tap in ((1, 0), (2, 1), (3, 2)):
            both[place, :, 1] = taps[1][tap]
        # then two in, one out, and one in, one out: the other taps see only padding
        self._convolutions = (
            (both.reshape(4 * 128, 2 * 64), np.tile(biases[1], 2)),
            (taps[2][1:].reshape(2 * 64, 64), biases[2]),
            (taps[3][1], biases[3]),
        )
        # sigmoid(x) = 0.5 + 0.5 tanh(x / 2): all gates in one tanh
        half = np.repeat(np.array([0.5, 0.5, 0.5, 1], np.float32), UNITS)
        into = np.concatenate([weights["onnx::LSTM_209"].T, weights["onnx::LSTM_210"].T])
        self._gates = np.ascontiguousarray(into * half)
        self._gates_bias = weights["onnx::LSTM_211"].sum(axis=0) * half
        self._out = weights["decoder.conv1d.weight"]
        self._out_bias = weights["decoder.conv1d.bias"]

    def step(self, windows: Pcm, state: NDArray[np.float32]) -> tuple[Pcm, NDArray[np.float32]]:
        """Return the probability of speech in one window of each call, and the calls' next state.

        `windows` is (calls, CONTEXT + WINDOW), `state` (calls, 2 * UNITS), zeros at first.
        Results of a call do not depend on the others but for rounding (1e-6).
        """
        calls = len(windows)
        frames = np.empty((calls, 4, FRAME), np.float32)
        for n in range(3):
            frames[:, n] = windows[:, n * HOP : n * HOP + FRAME]
        frames[:, 3, :MIRRORED] = windows[:, 3 * HOP :]
        frames[:, 3, MIRRORED:] = windows[:, -2 : MIRRORED - FRAME - 2 : -1]
        spectrum = frames.reshape(4 * calls, FRAME) @ self._basis
        spectrum *= spectrum
        magnitude = spectrum[:, :BINS] + spectrum[:, BINS:]
        np.sqrt(magnitude, out=magnitude)
        by_tap = (magnitude @ self._conv0).reshape(calls, 4, 3, 128)
        x = by_tap[:, :, 1] + self._bias0
        x[:, 1:] += by_tap[:, :-1, 0]
        x[:, :-1] += by_tap[:, 1:, 2]
        np.maximum(x, 0, out=x)
        for weights, bias in self._convolutions:
            x = x.reshape(calls, -1) @ weights
            x += bias
            np.maximum(x, 0, out=x)
        seen = np.empty((calls, 2 * UNITS), np.float32)
        seen[:, :UNITS] = x
        seen[:, UNITS:] = state[:, :UNITS]
        return self._remember(seen, state[:, UNITS:])

    def _remember(self, seen: Pcm, cell: Pcm) -> tuple[Pcm, NDArray[np.float32]]:
        """Run the memory (an LSTM) and the output on top of it."""
        gates = seen @ self._gates
        gates += self._gates_bias
        np.tanh(gates, out=gates)
        gates[:, : 3 * UNITS] *= 0.5
        gates[:, : 3 * UNITS] += 0.5
        take, give, keep, new = (gates[:, n * UNITS : (n + 1) * UNITS] for n in range(4))
        state = np.empty_like(seen)
        output, next_cell = state[:, :UNITS], state[:, UNITS:]
        np.multiply(keep, cell, out=next_cell)
        next_cell += take * new
        np.tanh(next_cell, out=output)
        output *= give
        logit = np.maximum(output, 0) @ self._out + self._out_bias
        return 1 / (1 + np.exp(-logit)), state


def shipped_model() -> Path:
    """Find the Silero v6 file that faster-whisper carries, without importing it.

    Raises:
        FileNotFoundError: If it is not there; the message names the remedy.
    """
    package = importlib.util.find_spec("faster_whisper")
    for folder in (package.submodule_search_locations or []) if package else []:
        path = Path(folder) / "assets" / "silero_vad_v6.onnx"
        if path.is_file():
            return path
    raise FileNotFoundError(
        "silero_vad_v6.onnx is not installed: pip install 'faster-whisper>=1.2'"
    )


def read_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read the weights of an ONNX file, flat.

    An ONNX file is one protobuf message: field 7 is the graph, its field 5 a
    tensor, whose field 2 is the type (1: float32), 8 the name and 9 the bytes
    (onnx.proto3).
    """
    tensors = {}
    for number, graph in _fields(memoryview(path.read_bytes())):
        if number != 7 or isinstance(graph, int):
            continue
        for kind, tensor in _fields(graph):
            if kind != 5 or isinstance(tensor, int):
                continue
            parts = dict(_fields(tensor))
            name, raw = parts.get(8), parts.get(9)
            if parts.get(2) == 1 and isinstance(name, memoryview) and isinstance(raw, memoryview):
                tensors[str(name, "utf-8")] = np.frombuffer(raw, "<f4").astype(np.float32)
    return tensors


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the fields of a protobuf message: their number, and an int or bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        match key & 7:
            case 0:
                value, at = _varint(message, at)
                yield key >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, at = _varint(message, at)
            case 5:
                size = 4
            case kind:
                raise ValueError(f"protobuf wire type is {kind}; expected 0, 1, 2 or 5")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return a protobuf integer and where the next thing begins."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at += 1
        shift += 7
        if byte < 128:
            return value, at
