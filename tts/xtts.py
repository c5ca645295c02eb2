"""XTTS, in steps that several calls share and whose cost does not grow with the sentence.

A transformer writes audio tokens one by one, and a HiFi-GAN turns its latents into sound.
Coqui's `inference_stream` decodes all latents so far for every chunk, and serves one call.
Here the decoder sees only a chunk's own latents and as many around them as it can look
at, and the transformer takes a token of every waiting call in one step, with a cache of
keys and values that has a row for each.
"""

import math
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tts.chunking import Window, reach, sizes, upsampling, window
from tts.coqui_options import ADJUSTABLE, CoquiOptions
from tts.engine import EngineError, Pcm
from tts.torch_device import Device
from tts.word_times import Paced
from tts.xtts_cache import Cache

STRIDE = 4
"""Tokens that a step writes at most: 0.19 s of audio. A more urgent call waits that long."""

PACE = 0.068
"""Seconds of audio for each letter, until this voice's own is known; of 165 words a minute."""

SLOWEST = 0.2
"""Seconds of audio for each letter beyond which a sentence is cut off: XTTS at times does
not find its end."""


@dataclass(slots=True, eq=False)
class Speech:
    """One piece of text on its way through the model.

    Attributes:
        sizes: Frames of its first chunk, its second and so on.
        ended: Whether all of its audio has been given out.
    """

    text: str
    ids: Sequence[int]
    voice: str
    noise: random.Random
    times: Paced
    most: int
    sizes: Sequence[int]
    row: int = -1
    length: int = 0
    tokens: list[int] = field(default_factory=list)
    latents: list[Any] = field(default_factory=list)
    complete: bool = False
    chunks: int = 0
    done: int = 0
    ended: bool = False

    @property
    def speakable(self) -> bool:
        """Whether there is anything to say."""
        return any(map(str.isalnum, self.text))


class Xtts:
    """A loaded XTTS model; used by one thread."""

    name = "XTTS"

    def __init__(
        self, model: Any, voices: dict[str, tuple[Any, Any]], device: Device, options: CoquiOptions
    ) -> None:
        """Take Coqui's model, ready and on the device.

        `voices` are their names and what the model knows of them: the transformer's
        latents (1, 32, dim) and the decoder's vector (1, 512, 1).
        """
        args = model.args
        if options.language.partition("-")[0] not in {
            name.partition("-")[0] for name in model.config.languages
        }:
            raise EngineError(
                f"coqui.language is {options.language!r}; this model speaks"
                f" {', '.join(model.config.languages)}"
            )
        self._model = model
        self._device = device
        self._language = options.language.partition("-")[0]
        self._gpt = model.gpt.to(device.dtype)
        self._decoder = model.hifigan_decoder.waveform_decoder.to(device.dtype)
        self._known = {
            name: (latents.to(device.torch, device.dtype), vector.to(device.torch, device.dtype))
            for name, (latents, vector) in voices.items()
        }
        self.voices = tuple(voices)
        self.rate = int(args.output_sample_rate)
        limit = model.tokenizer.char_limits.get(self._language, 250)
        self.longest = min(options.characters, limit)
        self.hop = upsampling(self._decoder)
        self.reach = reach(self._decoder)
        self._stretch = (
            args.gpt_code_stride_len / args.output_hop_length,
            args.output_sample_rate / args.input_sample_rate,
        )
        self._seconds = args.gpt_code_stride_len / args.input_sample_rate
        self.adjustable: tuple[str, ...] = ADJUSTABLE
        self.adjust(options)
        self._paces: dict[str, float] = {}
        self._cache = Cache(self._gpt, device)

    def adjust(self, options: CoquiOptions) -> None:
        """Take other settings for speeches that begin from now on; called by any thread."""
        self._batch = options.batch
        self._sizes = sizes(options.first, options.longest, self.rate / self.hop)

    def begin(self, text: str, words: Sequence[str], voice: str, seed: int) -> Speech:
        """Turn a piece of text into what the model reads; runs no network."""
        ids = self._model.tokenizer.encode(text.strip().lower(), lang=self._language)
        bound = self._model.args.gpt_max_text_tokens
        if len(ids) >= bound:
            raise EngineError(
                f"{len(ids)} text tokens in {text[:60]!r}, XTTS takes {bound - 1};"
                " set coqui.characters lower"
            )
        letters = sum(map(str.isalnum, text))
        most = math.ceil((2 + SLOWEST * letters) / self._seconds)
        return Speech(
            text,
            ids,
            voice,
            random.Random(seed),
            Paced(words, self._paces.get(voice, PACE * self.rate)),
            min(most, self._gpt.max_gen_mel_tokens),
            self._sizes,
        )

    def kind(self, speech: Speech) -> Hashable:
        """Return what its next step is; speeches with the same can take it together."""
        if speech.row < 0 and not speech.complete:
            return "read", len(speech.ids)
        found = self._window(speech)
        return "write" if found is None else ("decode", found.size)

    def most(self, speech: Speech) -> int:
        """Return how many may share its next step; on a CPU only writing gains by it."""
        return self._batch if self._device.cuda or self.kind(speech) == "write" else 1

    def run(self, speeches: Sequence[Speech]) -> list[Pcm | EngineError]:
        """Take the next step of each, all of one `kind`; return the audio it gave, if any.

        If it raises, none of them has moved.
        """
        if speeches[0].row < 0 and not speeches[0].complete:
            self._read(speeches)
        elif self._window(speeches[0]) is None:
            self._write(speeches)
        else:
            return self._decode(speeches)
        return [_NOTHING] * len(speeches)

    def end(self, speech: Speech) -> None:
        """Forget a speech that is over or not wanted any more."""
        if speech.ended and speech.times.pace:
            self._paces[speech.voice] = speech.times.pace
        self._cache.release(speech.row)
        speech.row, speech.ended, speech.complete = -1, True, True
        speech.latents = []

    def _read(self, speeches: Sequence[Speech]) -> None:
        """Let the transformer read texts of one length, and write the first token of each."""
        import torch

        gpt, at = self._gpt, self._device.torch
        ids = torch.tensor(
            [[gpt.start_text_token, *s.ids, gpt.stop_text_token] for s in speeches], device=at
        )
        text = gpt.text_embedding(ids) + gpt.text_pos_embedding(ids)
        voices = torch.cat([self._known[speech.voice][0] for speech in speeches])
        start = torch.full((len(speeches), 1), gpt.start_audio_token, device=at)
        audio = gpt.mel_embedding(start) + gpt.mel_pos_embedding(start)
        x = torch.cat([voices, text, audio], dim=1)
        rows = self._cache.take(len(speeches))
        try:
            hidden = self._cache.forward(x, rows, [0] * len(speeches))
            picked = self._pick(hidden, speeches)
        except Exception:
            for row in rows:
                self._cache.release(row)
            raise
        for speech, row in zip(speeches, rows, strict=True):
            speech.row, speech.length = row, x.shape[1]
        self._note(speeches, *picked)

    def _write(self, speeches: Sequence[Speech]) -> None:
        """Write a few tokens of each."""
        import torch

        gpt, at = self._gpt, self._device.torch
        for _ in range(STRIDE):
            places = torch.tensor([len(speech.tokens) for speech in speeches], device=at)
            last = torch.tensor([speech.tokens[-1] for speech in speeches], device=at)
            x = gpt.mel_embedding(last) + gpt.mel_pos_embedding.emb(places)
            rows = [speech.row for speech in speeches]
            hidden = self._cache.forward(x.unsqueeze(1), rows, [s.length for s in speeches])
            picked = self._pick(hidden, speeches)
            for speech in speeches:
                speech.length += 1
            self._note(speeches, *picked)
            # Those with enough for a chunk, or at their end, leave.
            speeches = [s for s in speeches if not s.complete and self._window(s) is None]
            if not speeches:
                break

    def _pick(self, hidden: Any, speeches: Sequence[Speech]) -> tuple[list[int], Any]:
        """Draw the next token of each from the model's scores; return latents beside."""
        import torch

        gpt, config = self._gpt, self._model.config
        latents = gpt.final_norm(hidden[:, -1])
        scores = gpt.mel_head(latents).float()
        # Coqui's own sampling also counts the filler of the prompt, 1, as said before.
        for row, speech in zip(scores, speeches, strict=True):
            said = torch.tensor([1, gpt.start_audio_token, *speech.tokens], device=row.device)
            values = row[said]
            penalty = config.repetition_penalty
            row[said] = torch.where(values < 0, values * penalty, values / penalty)
        best, tokens = torch.topk(scores / config.temperature, min(config.top_k, scores.shape[1]))
        chances = torch.softmax(best, dim=1)
        before = chances.cumsum(1) - chances
        chances = torch.where(before < config.top_p, chances, 0)
        chances = chances.cumsum(1) / chances.sum(1, keepdim=True)
        draws = torch.tensor([[s.noise.random()] for s in speeches], device=scores.device)
        places = (chances < draws).sum(1, keepdim=True).clamp(max=tokens.shape[1] - 1)
        return tokens.gather(1, places)[:, 0].tolist(), latents

    def _note(self, speeches: Sequence[Speech], tokens: Sequence[int], latents: Any) -> None:
        """Add a token and its latent to each."""
        for speech, token, latent in zip(speeches, tokens, latents, strict=True):
            speech.tokens.append(token)
            speech.latents.append(latent)
            stopped = token == self._gpt.stop_audio_token
            if stopped or len(speech.tokens) >= speech.most:
                speech.complete = True
                self._cache.release(speech.row)
                speech.row = -1

    def _window(self, speech: Speech) -> Window | None:
        size = speech.sizes[min(speech.chunks, len(speech.sizes) - 1)]
        known = self._frames(len(speech.latents), complete=speech.complete)
        return window(speech.done, size, known, self.reach, ended=speech.complete)

    def _frames(self, latents: int, *, complete: bool) -> int:
        """Return how many decoder frames are known; without the end, the last ones are not."""
        first, second = self._stretch
        if complete:
            return int(int(latents * first) * second)
        # A frame lies between two of the coarser ones, both of which must exist.
        middle = math.floor((latents - 0.5) * first - 0.5)
        return max(0, int((middle - 0.5) * second - 0.5))

    def _decode(self, speeches: Sequence[Speech]) -> list[Pcm | EngineError]:
        """Make the next chunk of each; their windows are of one size."""
        import torch

        windows = []
        for speech in speeches:
            found = self._window(speech)
            assert found is not None, "kind() said there is one"
            windows.append(found)
        z = torch.stack([self._between(s, w) for s, w in zip(speeches, windows, strict=True)])
        g = torch.cat([self._known[speech.voice][1] for speech in speeches])
        audio = self._decoder(z, g=g)[:, 0].float().cpu().numpy()
        answers: list[Pcm | EngineError] = []
        for speech, w, row in zip(speeches, windows, audio, strict=True):
            answers.append(row[(w.start - w.left) * self.hop : (w.end - w.left) * self.hop].copy())
            speech.done, speech.chunks = w.end, speech.chunks + 1
            speech.ended = speech.complete and w.end == self._frames(
                len(speech.latents), complete=True
            )
        return answers

    def _between(self, speech: Speech, w: Window) -> Any:
        """Return decoder frames `left` to `right`, (channels, frames), from their latents alone.

        What `HifiDecoder.forward` does to all latents with `interpolate`, twice.
        """
        first, second = self._stretch
        count = len(speech.latents)
        low, high, weight = _lie(np.arange(w.left, w.right), second, math.floor(count * first))
        base = max(0, math.floor((low[0] + 0.5) / first - 0.5))
        import torch

        at = self._device.torch
        top = min(count, math.ceil((high[-1] + 0.5) / first + 0.5) + 1)
        latents = torch.stack(speech.latents[base:top])

        def middle(places: Any) -> Any:
            a, b, share = _lie(places, first, count)
            mix = torch.tensor(share, device=at, dtype=latents.dtype).unsqueeze(1)
            return torch.lerp(
                latents[torch.tensor(a - base, device=at)],
                latents[torch.tensor(b - base, device=at)],
                mix,
            )

        mix = torch.tensor(weight, device=at, dtype=latents.dtype).unsqueeze(1)
        return torch.lerp(middle(low), middle(high), mix).T


_NOTHING: Pcm = np.zeros(0, np.float32)


def _lie(places: Any, scale: float, count: int) -> tuple[Any, Any, Any]:
    """Return between which two of `count` samples each place lies once these are stretched.

    As torch's linear `interpolate`: centres of samples are kept, ends are held.
    """
    source = np.maximum((places + 0.5) / scale - 0.5, 0)
    low = np.minimum(np.floor(source).astype(np.int64), count - 1)
    return low, np.minimum(low + 1, count - 1), source - low
