"""What weights a model file holds (names, types, shapes), read from its tables, not its numbers.

Takes milliseconds for gigabytes, and tells a file that was cut off. Three formats:
safetensors (a JSON header), CTranslate2's `model.bin` (as `ctranslate2.specs.model_spec`
writes it), and PyTorch's zip files, whose pickle is read with every class but its tensors
replaced by an inert one: nothing in it is run.
"""

import json
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".tar")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One weight: bytes of one number, and its shape."""

    width: float
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.ceil(self.count * self.width)


Table = Mapping[str, Tensor]


def of_folder(folder: Path) -> Table:
    """Return the weights of the model in `folder`, of all its files of the best format there.

    Raises:
        ValueError: If there are none, or a file is cut off; the message names it.
    """
    for pattern in ("model.bin", "*.safetensors", "*.pth", "*.pth.tar"):
        if files := sorted(folder.glob(pattern)):
            named = [file for file in files if file.name.startswith(("model", "best_model"))]
            found: dict[str, Tensor] = {}
            for file in named or files:
                found |= table(file)
            if found:
                return found
    raise ValueError(f"there are no weights in {folder}: expected {', '.join(SUFFIXES[:3])}")


def table(file: Path) -> Table:
    """Return the weights in one file; {} if it is of no such format.

    Raises:
        ValueError: If it is cut off or damaged.
    """
    readers = {".safetensors": _safetensors, ".bin": _ctranslate}
    reader = readers.get(file.suffix, _torch)
    if file.suffix not in SUFFIXES:
        return {}
    try:
        with file.open("rb") as stream:
            return dict(reader(stream, file.stat().st_size))
    except (OSError, struct.error, ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(f"{file.name} is cut off or damaged ({error})") from error
    except (zipfile.BadZipFile, pickle.UnpicklingError, AttributeError, IndexError) as error:
        raise ValueError(f"{file.name} is cut off or damaged ({error})") from error


WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
    "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
"""Bytes of a number by safetensors' names."""


def _safetensors(stream: IO[bytes], size: int) -> Iterator[tuple[str, Tensor]]:
    length = struct.unpack("<Q", stream.read(8))[0]
    if length > size:
        raise ValueError(f"its header has {length} bytes, it has {size}")
    entries = json.loads(stream.read(length))
    entries.pop("__metadata__", None)
    end = 8 + length + max((e["data_offsets"][1] for e in entries.values()), default=0)
    if end != size:
        raise ValueError(f"it has {size:,} bytes, expected {end:,}")
    for name, entry in entries.items():
        yield name, Tensor(WIDTHS[entry["dtype"]], tuple(entry["shape"]))


def _ctranslate(stream: IO[bytes], size: int) -> Iterator[tuple[str, Tensor]]:
    widths = {0: 4, 1: 1, 2: 2, 3: 4, 4: 2, 5: 2}  # float32, int8, int16, int32, float16, bfloat16

    def number(kind: str) -> int:
        return int(struct.unpack(f"<{kind}", stream.read(struct.calcsize(kind)))[0])

    def text() -> str:
        return stream.read(number("H"))[:-1].decode()

    if number("I") > 16:  # no version: PyTorch calls its zip files so, too
        yield from _torch(stream, size)
        return
    text(), number("I")
    for _ in range(number("I")):
        name = text()
        shape = tuple(number("I") for _ in range(number("B")))
        width = widths[number("B")]
        length = number("I")
        # The length is kept in 32 bits: of more than 4 GB, the shape tells.
        end = stream.tell() + (length if length < 2**31 else math.prod(shape) * width)
        if end > size:
            raise ValueError(f"it has {size:,} bytes, and {name} would end at {end:,}")
        stream.seek(end)
        yield name, Tensor(width, shape)
    for _ in range(number("I")):
        text(), text()
    if stream.tell() != size:
        raise ValueError(f"it has {size:,} bytes, expected {stream.tell():,}")


def _torch(stream: IO[bytes], size: int) -> Iterator[tuple[str, Tensor]]:
    with zipfile.ZipFile(stream) as opened:
        names = opened.namelist()
        main = next(name for name in names if name.endswith("data.pkl"))
        content = _Shapes(opened.open(main)).load()
    yield from _named(content)


def _named(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested dicts; those of an optimiser are no weights."""
    for name, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif name not in ("optimizer", "optimizer_states", "scaler"):
            yield from _named(value, "" if name in ("model", "state_dict") else f"{prefix}{name}.")


class _Inert:
    """Stands for whatever a pickle names; does nothing."""

    def __init__(self, *given: object, **named: object) -> None:
        pass

    def __call__(self, *given: object, **named: object) -> "_Inert":
        return self

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        """Take one item of a list that is none."""

    def extend(self, items: object) -> None:
        """Take items of a list that is none."""


class _Shapes(pickle.Unpickler):
    """Reads a pickle of tensors as their shapes; runs nothing that it names."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return lambda storage, offset, shape, *rest: Tensor(storage, tuple(shape))
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda tensor, *rest: tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name.endswith("Storage"):
            return type(name, (_Inert,), {})
        return _Inert

    def persistent_load(self, key: Any) -> float:
        widths = {"Double": 8, "Long": 8, "Float": 4, "Int": 4, "Half": 2, "BFloat16": 2}
        return widths.get(key[1].__name__.removesuffix("Storage"), 1)
