"""The transformer of XTTS, with keys and values of several calls at once.

It is run from its own layers, as the cache of the library that it comes from wants all calls
of a batch to be equally long, and to begin and end together.
"""

from collections.abc import Sequence
from typing import Any

from tts.torch_device import Device


class Cache:
    """The transformer and what it remembers of each call; used by one thread."""

    def __init__(self, gpt: Any, device: Device) -> None:
        self._gpt = gpt
        self._device = device
        self._heads = gpt.heads
        self._width = gpt.model_dim // gpt.heads
        self._length = gpt.max_prompt_tokens + gpt.max_text_tokens + gpt.max_mel_tokens
        self._keys: Any = None
        self._values: Any = None
        self._free: list[int] = []
        self._rows = 0

    def take(self, count: int) -> list[int]:
        """Return rows for `count` calls, making more if need be."""
        import torch

        missing = count - len(self._free)
        if missing > 0:
            more = max(missing, self._rows)  # doubling: seldom copied
            shape = (len(self._gpt.gpt.h), more, self._heads, self._length, self._width)
            new = [
                torch.zeros(shape, dtype=self._device.dtype, device=self._device.torch)
                for _ in range(2)
            ]
            if self._rows:
                new = [
                    torch.cat(pair, 1) for pair in zip((self._keys, self._values), new, strict=True)
                ]
            self._keys, self._values = new
            self._free += range(self._rows, self._rows + more)
            self._rows += more
        taken, self._free = self._free[:count], self._free[count:]
        return taken

    def release(self, row: int) -> None:
        """Take a row back; -1 is none."""
        if row >= 0:
            self._free.insert(0, row)

    def forward(self, x: Any, rows: Sequence[int], starts: Sequence[int]) -> Any:
        """Run (batch, new, dim) through all layers; row `i` goes on at `starts[i]`.

        More than one new position only where all start at 0.
        """
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        batch, new, dim = x.shape
        at = self._device.torch
        longest = max(starts) + new
        row = torch.tensor(rows, device=at)
        place = torch.tensor(starts, device=at)
        mask = (torch.arange(longest, device=at) <= place[:, None])[:, None, None]
        single = slice(rows[0], rows[0] + 1) if batch == 1 else row
        for number, layer in enumerate(self._gpt.gpt.h):
            keys, values = self._keys[number], self._values[number]
            parts = layer.attn.c_attn(layer.ln_1(x)).split(dim, dim=2)
            query, key, value = (
                part.view(batch, new, self._heads, self._width).transpose(1, 2) for part in parts
            )
            if new == 1:
                keys[row, :, place] = key[:, :, 0]
                values[row, :, place] = value[:, :, 0]
                seen = keys[single, :, :longest], values[single, :, :longest]
                out = scaled_dot_product_attention(query, *seen, attn_mask=mask)
            else:
                keys[row, :, :new], values[row, :, :new] = key, value
                out = scaled_dot_product_attention(query, key, value, is_causal=True)
            x = x + layer.attn.c_proj(out.transpose(1, 2).reshape(batch, new, dim))
            x = x + layer.mlp(layer.ln_2(x))
        return self._gpt.gpt.ln_f(x)
