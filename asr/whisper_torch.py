"""Whisper run by torch, for where CTranslate2's cuBLAS 12 cannot be had.

The modules are those of transformers; the loop is our own. Keys and values lie in
buffers of fixed size, so that on a GPU one captured CUDA graph serves every step of
a batch: a step then costs its arithmetic, not a hundred kernel launches. It takes the
likeliest token each time; there is no search.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.engine import EngineError
from asr.whisper_decoder import STEP, Aligned, Written
from asr.whisper_options import WhisperOptions
from asr.whisper_path import path
from asr.whisper_tokens import Tokens

LENGTH = 448
"""Tokens of prompt and transcript together: all that Whisper has positions for."""

GRAIN = 2.0
"""Lengths of windows are multiples of this on a GPU, in seconds: each has a graph of its own."""


class TorchModel:
    """A model in Hugging Face's format; see `asr.whisper_decoder.Model`.

    Attributes:
        graphs: Whether steps are recorded as CUDA graphs.
    """

    def __init__(self, folder: Path, options: WhisperOptions) -> None:
        """Load it.

        Raises:
            EngineError: If it cannot; the message names the remedy.
        """
        try:
            import torch
            from transformers import WhisperForConditionalGeneration
        except ImportError as error:
            raise EngineError(
                f"{folder} is a model for torch, which is not installed ({error}): "
                "pip install torch transformers"
            ) from error
        device = options.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise EngineError("whisper.device is cuda, and torch sees no GPU: set it to cpu")
        compute = options.compute
        if compute == "auto":
            compute = "float16" if device == "cuda" else "float32"
        if compute not in ("float16", "bfloat16", "float32"):
            raise EngineError(
                f"whisper.compute is {compute}; torch knows float16, bfloat16 and float32"
            )
        if options.beam != 1:
            raise EngineError(
                f"whisper.beam is {options.beam}; the torch backend knows only 1: set it to 1, "
                "or convert the model for CTranslate2"
            )
        try:
            network: Any = WhisperForConditionalGeneration.from_pretrained(
                str(folder), dtype=getattr(torch, compute), local_files_only=True
            )
            self._network = network.to(device).eval()
        except Exception as error:  # safetensors, json and torch raise what they like
            first = (str(error) or repr(error)).splitlines()[0]
            raise EngineError(
                f"Whisper cannot load {folder} ({first}). If a download was cut off, delete "
                "the directory and fetch it again"
            ) from error
        config, written = self._network.config, self._network.generation_config
        self._torch = torch
        self._device, self._dtype = device, getattr(torch, compute)
        self._batch = options.batch
        self._heads = [tuple(pair) for pair in getattr(written, "alignment_heads", None) or ()]
        if not self._heads:  # as CTranslate2: those of the later half of the layers
            layers, heads = config.decoder_layers, config.decoder_attention_heads
            self._heads = [(i, j) for i in range(layers // 2, layers) for j in range(heads)]
        self.about = f"{compute} on {device} by torch"
        self.together = self.graphs = device == "cuda"
        self.grain = GRAIN if self.together else 0.1
        self.sizes = _sizes(options) if self.together else [(1, 1.0)]
        # Windows of the other kind would have graphs that are recorded in the middle of a call.
        self.fixed: tuple[str, ...] = ("whisper.beam",)
        if self.graphs:
            self.fixed += ("whisper.window",)
        self.bands = int(config.num_mel_bins)
        self.tokens = Tokens(folder / "tokenizer.json", config.vocab_size >= 51865)
        self._never = self._penalty(config.vocab_size, written.suppress_tokens or ())
        self._never_first = self._penalty(
            config.vocab_size, written.begin_suppress_tokens or (), self._never
        )
        self._cache: _Cache | None = None  # the one of the graphs
        self._graphs: dict[tuple[int, int], Callable[[], tuple[Any, Any]]] = {}
        if threads := options.threads:
            torch.set_num_threads(threads)

    def encode(self, mel: NDArray[np.float32]) -> Any:
        """Return the encoder's output, a tensor (batch, positions, width)."""
        torch, encoder = self._torch, self._network.model.encoder
        with torch.inference_mode():
            x = torch.from_numpy(mel).to(self._device, self._dtype)
            x = torch.nn.functional.gelu(encoder.conv1(x))
            x = torch.nn.functional.gelu(encoder.conv2(x)).transpose(1, 2)
            x = x + encoder.embed_positions.weight[: x.shape[1]]
            for layer in encoder.layers:
                h = layer.self_attn_layer_norm(x)
                keys, values = _split(layer.self_attn, h)
                x = x + self._attend(layer.self_attn, h, keys, values)
                x = x + _forward(layer, x)
            return encoder.layer_norm(x)

    def detect(self, encoded: Any) -> list[tuple[str, float]]:
        """Return for each window its likeliest language, and how likely it is."""
        torch, codes = self._torch, list(self.tokens.languages)
        with torch.inference_mode():
            cache = self._fill(encoded, 1)
            start = torch.full((len(encoded), 1), self.tokens.start, device=self._device)
            logits = self._logits(self._decode(start, self._position(0), cache)[:, -1])
            likely = logits[:, list(self.tokens.languages.values())].softmax(-1)
            best = likely.max(-1)
            return [
                (codes[int(index)], float(probability))
                for index, probability in zip(best.indices, best.values, strict=True)
            ]

    def generate(
        self,
        encoded: Any,
        prompt: Sequence[Sequence[int]],
        given: Sequence[Sequence[int]],
        limit: int,
        beam: int = 1,
    ) -> list[Written]:
        """Write all windows out; see `asr.whisper_decoder.Model`. There is no other beam than 1."""
        torch, end, count = self._torch, self.tokens.end, len(given)
        steps = min(limit + max(len(one) for one in given), LENGTH - len(prompt[0]))
        forced = np.full((count, steps), -1, np.int64)
        for row, one in enumerate(given):
            forced[row, : len(one)] = one[:steps]
        ahead = torch.from_numpy(forced).to(self._device)
        written, chances = [], []
        done = torch.zeros(count, dtype=torch.bool, device=self._device)
        with torch.inference_mode():
            cache = self._fill(encoded, len(prompt[0]) + steps)
            begin = torch.tensor([list(one) for one in prompt], device=self._device)
            hidden = self._decode(begin, self._position(0), cache)
            at = prompt[0].index(self.tokens.start)
            silent = self._logits(hidden[:, at]).softmax(-1)[:, self.tokens.no_speech]
            chosen, chance = self._choose(hidden[:, -1], self._never_first)
            step = self._stepper(cache, count)
            for index in range(steps):
                told = ahead[:, index]
                free = (told < 0) & ~done
                token = torch.where(told < 0, chosen, told)
                written.append(torch.where(done, end, token))
                chances.append(torch.where(free, chance, 0))
                done = done | (free & (token == end))
                if index + 1 == steps or bool(done.all()):
                    break
                cache.tokens[:count, 0] = token
                cache.position.fill_(len(prompt[0]) + index)
                chosen, chance = step()
        tokens = torch.stack(written, 1).tolist()
        sums = torch.stack(chances, 1).sum(1).tolist()
        results = []
        for row, one, total, quiet in zip(tokens, given, sums, silent.tolist(), strict=True):
            new = row[len(one) :]
            new = new[: new.index(end)] if end in new else new
            results.append(Written(new, total / (len(new) + 1), quiet))
        return results

    def align(
        self, encoded: Any, index: int, start: Sequence[int], text: Sequence[int], seconds: float
    ) -> Aligned:
        """Return when each token of a window was said, from what the decoder attends to."""
        torch = self._torch
        tokens = [*start, self.tokens.no_timestamps, *text, self.tokens.end]
        weights: list[Any] = []
        with torch.inference_mode():
            cache = _Cache(self, 1, len(tokens), encoded.shape[1])
            self._fill_cross(cache, encoded[index : index + 1])
            hidden = self._decode(
                torch.tensor([tokens], device=self._device), self._position(0), cache, weights
            )
            logits = self._logits(hidden[0, len(start) : -2], self.tokens.end)
            chances = logits.softmax(-1)[range(len(text)), list(text)]
            columns = max(1, min(encoded.shape[1], round(seconds / STEP)))
            attention = torch.stack(weights).float()[..., :columns].softmax(-1)
        starts = [float(seconds)] * (len(text) + 1)
        for token, position in reversed(path(attention.cpu().numpy(), len(start))):
            starts[token] = min(seconds, int(position) * STEP)
        return Aligned(starts, chances.tolist())

    def _decode(
        self, tokens: Any, position: Any, cache: "_Cache", weights: list[Any] | None = None
    ) -> Any:
        """Return the decoder's output for (batch, n) tokens of which the first is at `position`.

        `weights` is given the scores of what each token attends to, of each head that times.
        """
        torch, decoder = self._torch, self._network.model.decoder
        places = position + torch.arange(tokens.shape[1], device=self._device)
        seen = torch.arange(cache.keys.shape[3], device=self._device) <= places[:, None]
        x = decoder.embed_tokens(tokens) + decoder.embed_positions.weight[places]
        for i, layer in enumerate(decoder.layers):
            h = layer.self_attn_layer_norm(x)
            keys, values = _split(layer.self_attn, h)
            cache.keys[i].index_copy_(2, places, keys)
            cache.values[i].index_copy_(2, places, values)
            x = x + self._attend(layer.self_attn, h, cache.keys[i], cache.values[i], seen)
            h = layer.encoder_attn_layer_norm(x)
            cross = layer.encoder_attn
            if weights is not None:
                query = _heads(cross, cross.q_proj(h)) * cross.scaling
                scores = query[0] @ cache.cross_keys[i][0].transpose(-1, -2)
                weights += [scores[head] for at, head in self._heads if at == i]
            x = x + self._attend(cross, h, cache.cross_keys[i], cache.cross_values[i])
            x = x + _forward(layer, x)
        return decoder.layer_norm(x)

    def _attend(self, attention: Any, x: Any, keys: Any, values: Any, mask: Any = None) -> Any:
        product = self._torch.nn.functional.scaled_dot_product_attention
        found = product(_heads(attention, attention.q_proj(x)), keys, values, attn_mask=mask)
        return attention.out_proj(found.transpose(1, 2).flatten(2))

    def _logits(self, hidden: Any, below: int | None = None) -> Any:
        return self._network.proj_out(hidden)[..., :below].float()

    def _choose(self, hidden: Any, penalty: Any) -> tuple[Any, Any]:
        """Return the likeliest token of each window, and ln of its probability."""
        best = (self._logits(hidden) + penalty).log_softmax(-1).max(-1)
        return best.indices, best.values

    def _fill(self, encoded: Any, length: int) -> "_Cache":
        """Return the keys and values of what was heard, and room for `length` tokens."""
        count, positions = encoded.shape[:2]
        if not self.graphs:
            cache = _Cache(self, count, length, positions)
        else:
            if self._cache is None or self._cache.keys.shape[1] < count:
                self._graphs.clear()
                places = self._network.config.max_source_positions
                self._cache = _Cache(self, max(count, self._batch), LENGTH, places)
            cache = self._cache.view(count, positions)
        self._fill_cross(cache, encoded)
        return cache

    def _fill_cross(self, cache: "_Cache", encoded: Any) -> None:
        for i, layer in enumerate(self._network.model.decoder.layers):
            keys, values = _split(layer.encoder_attn, encoded)
            cache.cross_keys[i].copy_(keys)
            cache.cross_values[i].copy_(values)

    def _stepper(self, cache: "_Cache", count: int) -> Callable[[], tuple[Any, Any]]:
        """Return what writes one more token from `cache.tokens` at `cache.position`."""
        if not self.graphs:
            return lambda: self._step(cache)
        positions, size = cache.cross_keys.shape[3], 1
        while size < count:
            size *= 2
        assert self._cache is not None
        size = min(size, self._cache.keys.shape[1])
        if (size, positions) not in self._graphs:
            self._graphs[size, positions] = self._capture(self._cache.view(size, positions))
        replay = self._graphs[size, positions]

        def step() -> tuple[Any, Any]:
            tokens, chances = replay()
            return tokens[:count].clone(), chances[:count].clone()

        return step

    def _step(self, cache: "_Cache") -> tuple[Any, Any]:
        return self._choose(self._decode(cache.tokens, cache.position, cache)[:, -1], self._never)

    def _capture(self, cache: "_Cache") -> Callable[[], tuple[Any, Any]]:
        """Record one step as a CUDA graph; its inputs and outputs stay where they are.

        Trying it out writes keys and values at the last place, which is seen by no token
        before the real ones for it have been written.
        """
        torch = self._torch
        cache.position.fill_(LENGTH - 1)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries set themselves up outside the recording
            for _ in range(2):
                self._step(cache)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = self._step(cache)

        def replay() -> tuple[Any, Any]:
            graph.replay()
            return results

        return replay

    def _position(self, position: int) -> Any:
        return self._torch.tensor([position], device=self._device)

    def _penalty(self, size: int, tokens: Sequence[int], base: Any = None) -> Any:
        """Return what is added to logits so that `tokens` are never chosen."""
        torch = self._torch
        penalty = torch.zeros(size, device=self._device) if base is None else base.clone()
        penalty[list(tokens)] = -torch.inf
        return penalty


class _Cache:
    """Keys and values of a batch, (layers, batch, heads, places, width of a head) each.

    Attributes:
        keys, values: Of the tokens so far.
        cross_keys, cross_values: Of what was heard.
        tokens: The tokens to go on from, (batch, 1).
        position: Where they stand, (1,).
    """

    def __init__(self, model: TorchModel, batch: int, length: int, positions: int) -> None:
        torch, config = model._torch, model._network.config
        heads = config.decoder_attention_heads
        shape = (config.decoder_layers, batch, heads)
        width = config.d_model // heads
        room = {"device": model._device, "dtype": model._dtype}
        self.keys = torch.zeros((*shape, length, width), **room)
        self.values = torch.zeros((*shape, length, width), **room)
        self.cross_keys = torch.zeros((*shape, positions, width), **room)
        self.cross_values = torch.zeros((*shape, positions, width), **room)
        self.tokens = torch.zeros((batch, 1), dtype=torch.long, device=model._device)
        self.position = torch.zeros(1, dtype=torch.long, device=model._device)

    def view(self, batch: int, positions: int) -> "_Cache":
        """Return the same memory, seen as that of fewer windows that are shorter."""
        part = object.__new__(_Cache)
        part.keys, part.values = self.keys[:, :batch], self.values[:, :batch]
        part.cross_keys = self.cross_keys[:, :batch, :, :positions]
        part.cross_values = self.cross_values[:, :batch, :, :positions]
        part.tokens, part.position = self.tokens[:batch], self.position
        return part


def _sizes(options: WhisperOptions) -> list[tuple[int, float]]:
    """Return every batch and window that has a graph of its own and is met in short utterances."""
    counts = [count for count in (1, 2, 4, 8, 16, 32, 64, 128) if count < options.batch]
    spans = range(1, 1 + round(options.cut / GRAIN)) if options.window == "short" else [1]
    shortest = max(0.1, GRAIN - options.padding)
    return [
        (count, shortest + GRAIN * (span - 1))
        for count in (*counts, options.batch)
        for span in spans
    ]


def _heads(attention: Any, x: Any) -> Any:
    """Return (batch, n, width) as (batch, heads, n, width of a head)."""
    return x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def _split(attention: Any, x: Any) -> tuple[Any, Any]:
    """Return the keys and values of `x`."""
    return _heads(attention, attention.k_proj(x)), _heads(attention, attention.v_proj(x))


def _forward(layer: Any, x: Any) -> Any:
    return layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(x))))
