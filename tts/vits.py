"""VITS, in steps that several calls share and that yield sound before the sentence is done.

Coqui's `Vits.inference` does everything for one text in one go. Here the text is encoded
once, with durations and flow, for all texts that wait; then the decoder, which is nine
tenths of the work, runs over windows of what came out. Windows overlap by the
decoder's own reach, so the pieces joined are what it would have made of the whole.
"""

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tts import word_times
from tts.chunking import Window, reach, sizes, upsampling, window
from tts.coqui_options import ADJUSTABLE, CoquiOptions
from tts.engine import EngineError, Pcm, Word
from tts.torch_device import Device

MOST = 60.0
"""Seconds of audio of one piece of text; more is a broken model, or one for other symbols."""


@dataclass(slots=True, eq=False)
class Speech:
    """One piece of text on its way through the model.

    Attributes:
        sizes: Frames of its first chunk, its second and so on.
        ended: Whether all of its audio has been given out.
    """

    text: str
    words: Sequence[str]
    spoken: Sequence[str]
    symbols: str
    ids: Sequence[int]
    voice: str
    noise: random.Random
    sizes: Sequence[int]
    latent: Any = None
    times: word_times.Timed = field(default_factory=lambda: word_times.Timed(()))
    chunks: int = 0
    done: int = 0
    ended: bool = False

    @property
    def speakable(self) -> bool:
        """Whether there is anything to say."""
        return any(map(str.isalnum, self.symbols))


class Vits:
    """A loaded VITS model; used by one thread."""

    name = "VITS"

    def __init__(self, model: Any, device: Device, options: CoquiOptions) -> None:
        """Take Coqui's model, ready for inference and on the device."""
        import torch

        self._model = model
        self._device = device
        self._language = _language(model, options.language)
        self._speakers = _speakers(model)
        self._conditions: dict[str, Any] = {}
        self._decoder = model.waveform_decoder.to(device.dtype)
        self.rate = int(model.config.audio.sample_rate)
        self.voices: tuple[str, ...] = tuple(self._speakers) or ("default",)
        self.longest = options.characters
        self.hop = upsampling(self._decoder)
        self.reach = reach(self._decoder)
        self.adjustable: tuple[str, ...] = ADJUSTABLE
        if not device.cuda:  # where nobody shares a step
            self.adjustable = ("coqui.first", "coqui.longest")
        self.adjust(options)
        with torch.inference_mode():
            for voice in self.voices:
                self._conditions[voice] = self._condition(voice)

    def adjust(self, options: CoquiOptions) -> None:
        """Take other settings for speeches that begin from now on; called by any thread."""
        self._batch = options.batch if self._device.cuda else 1
        self._sizes = sizes(options.first, options.longest, self.rate / self.hop)

    def begin(self, text: str, words: Sequence[str], voice: str, seed: int) -> Speech:
        """Turn a piece of text into what the model reads; runs no network."""
        symbols = self._read(text)
        spoken = [self._read(word) for word in words]
        tokenizer = self._model.tokenizer
        ids = tokenizer.encode(symbols)
        if tokenizer.add_blank:
            ids = tokenizer.intersperse_blank_char(ids)
        if tokenizer.use_eos_bos:
            ids = tokenizer.pad_with_bos_eos(ids)
        return Speech(text, words, spoken, symbols, ids, voice, random.Random(seed), self._sizes)

    def kind(self, speech: Speech) -> Hashable:
        """Return what its next step is; speeches with the same can take it together."""
        if speech.latent is None:
            return "encode"
        return "decode", self._window(speech).size

    def most(self, speech: Speech) -> int:
        """Return how many may share its next step.

        On a CPU a step takes as long for two calls as two steps do (measured for batches of 1
        to 8 of the published shape), so that sharing it would only make the first one late.
        """
        return self._batch

    def run(self, speeches: Sequence[Speech]) -> list[Pcm | EngineError]:
        """Take the next step of each, all of one `kind`; return the audio it gave, if any.

        If it raises, none of them has moved.
        """
        if speeches[0].latent is None:
            return self._encode(speeches)
        return self._decode(speeches)

    def end(self, speech: Speech) -> None:
        """Forget a speech that is over or not wanted any more."""
        speech.latent = None
        speech.ended = True

    def _read(self, text: str) -> str:
        """Return the symbols of a text: cleaned, as phonemes if the model wants them."""
        tokenizer = self._model.tokenizer
        language = self._language[0]
        if tokenizer.text_cleaner is not None:
            text = tokenizer.text_cleaner(text, lang=language.partition("-")[0])
        if tokenizer.phonemizer is not None:
            text = tokenizer.phonemizer.phonemize(text, separator="", language=language)
        vocabulary = tokenizer.characters
        return "".join(symbol for symbol in text if symbol in vocabulary._char_to_id)

    def _encode(self, speeches: Sequence[Speech]) -> list[Pcm | EngineError]:
        """Find durations and latents of several texts at once."""
        import torch

        model, at = self._model, self._device.torch
        count, longest = len(speeches), max(len(s.ids) for s in speeches)
        ids = torch.zeros(count, longest, dtype=torch.long)
        noise = torch.zeros(count, 2, longest)
        for row, speech in enumerate(speeches):
            ids[row, : len(speech.ids)] = torch.tensor(speech.ids)
            noise[row, :, : len(speech.ids)] = _noise(speech, 2, len(speech.ids))
        lengths = torch.tensor([len(s.ids) for s in speeches], device=at)
        g = self._conditioning(speeches)
        lang = None
        if self._language[1] is not None:
            lang = model.emb_l(torch.tensor([self._language[1]] * count, device=at)).unsqueeze(-1)
        x, means, logs, mask = model.text_encoder(ids.to(at), lengths, lang_emb=lang)
        logw = self._durations(x, mask, g, lang, noise.to(at))
        held = torch.ceil(torch.exp(logw) * mask * model.length_scale).squeeze(1).cpu()
        most = MOST * self.rate / self.hop
        answers: list[Pcm | EngineError] = []
        frames = []  # of each symbol
        for speech, row in zip(speeches, held, strict=True):
            row, total = row[: len(speech.ids)], float(row.sum())
            fits = 1 <= total <= most  # not a number is neither
            frames.append(row.long() if fits else torch.ones(1, dtype=torch.long))
            answers.append(
                _NOTHING
                if fits
                else EngineError(
                    f"the model wants {total * self.hop / self.rate:g} s for {speech.text[:60]!r};"
                    " its file is damaged, or made for another set of symbols"
                )
            )
        widest = max(int(row.sum()) for row in frames)
        z = torch.zeros(count, means.shape[1], widest)
        flat = torch.zeros(count, widest, dtype=torch.long)
        there = torch.zeros(count, 1, widest)
        for number, (speech, row) in enumerate(zip(speeches, frames, strict=True)):
            total = int(row.sum())
            z[number, :, :total] = _noise(speech, means.shape[1], total)
            flat[number, :total] = torch.repeat_interleave(torch.arange(row.numel()), row)
            there[number, :, :total] = 1
        there, index = there.to(at), flat.to(at).unsqueeze(1).expand(-1, means.shape[1], -1)
        spread = torch.exp(torch.gather(logs, 2, index)) * model.inference_noise_scale
        z = (torch.gather(means, 2, index) + z.to(at) * spread) * there
        z = model.flow(z, there, g=g, reverse=True) * there
        for number, (speech, row, answer) in enumerate(zip(speeches, frames, answers, strict=True)):
            if isinstance(answer, EngineError):
                continue
            speech.latent = self._upsample(z[number : number + 1, :, : int(row.sum())])
            speech.times = word_times.Timed(self._times(speech, row.tolist()))
        self._device.synchronise()
        return answers

    def _durations(self, x: Any, mask: Any, g: Any, lang: Any, noise: Any) -> Any:
        """Return the logarithm of each symbol's frames, with noise that is each speech's own.

        The stochastic predictor is run here step by step, as Coqui's draws the noise of
        a whole batch at once, so that a phrase would depend on its neighbours.
        """
        import torch

        model = self._model
        predictor = model.duration_predictor
        g = g if model.args.condition_dp_on_speaker else None
        if not model.args.use_sdp:
            return predictor(x, mask, g=g, lang_emb=lang)
        x = predictor.pre(x)
        if g is not None:
            x = x + predictor.cond(g)
        if lang is not None:
            x = x + predictor.cond_lang(lang)
        x = predictor.proj(predictor.convs(x, mask)) * mask
        flows = list(reversed(predictor.flows))
        z = noise * model.inference_noise_scale_dp
        for flow in (*flows[:-2], flows[-1]):
            z = flow(torch.flip(z, [1]), mask, g=x, reverse=True)
        return z[:, :1]

    def _upsample(self, z: Any) -> Any:
        """Return a latent (1, channels, frames) as the decoder takes it: at its rate, in bounds."""
        import torch

        args = self._model.args
        if args.encoder_sample_rate and args.interpolate_z:
            factor = self._model.interpolate_factor
            z = torch.nn.functional.interpolate(z, scale_factor=[factor], mode="linear")
        return z[0, :, : args.max_inference_len].to(self._device.dtype)

    def _times(self, speech: Speech, frames: Sequence[int]) -> list[Word]:
        """Return when each word is spoken; a blank's time goes to the symbol after it."""
        tokenizer = self._model.tokenizer
        factor = speech.latent.shape[1] * self.hop / max(1, sum(frames))
        body = frames[1:-1] if tokenizer.use_eos_bos else frames
        held = list(body)
        if tokenizer.add_blank:
            held = [a + b for a, b in zip(body[0:-1:2], body[1::2], strict=True)]
        lead = frames[0] if tokenizer.use_eos_bos else 0
        held = [round(count * factor) for count in held]
        if held:
            held[0] += round(lead * factor)
        return word_times.by_durations(speech.words, speech.spoken, speech.symbols, held)

    def _window(self, speech: Speech) -> Window:
        size = speech.sizes[min(speech.chunks, len(speech.sizes) - 1)]
        known = speech.latent.shape[1]
        found = window(speech.done, size, known, self.reach, ended=True)
        assert found is not None, "a speech that ended has no next step"
        return found

    def _decode(self, speeches: Sequence[Speech]) -> list[Pcm | EngineError]:
        """Make the next chunk of each; their windows are of one size."""
        import torch

        windows = [self._window(speech) for speech in speeches]
        z = torch.stack(
            [s.latent[:, w.left : w.right] for s, w in zip(speeches, windows, strict=True)]
        )
        g = self._conditioning(speeches)
        pcm = self._decoder(z, g=None if g is None else g.to(self._device.dtype))
        audio = pcm[:, 0].float().cpu().numpy()
        answers: list[Pcm | EngineError] = []
        for speech, w, row in zip(speeches, windows, audio, strict=True):
            answers.append(row[(w.start - w.left) * self.hop : (w.end - w.left) * self.hop].copy())
            speech.done, speech.chunks = w.end, speech.chunks + 1
            speech.ended = w.end == speech.latent.shape[1]
        return answers

    def _conditioning(self, speeches: Sequence[Speech]) -> Any:
        """Return the speakers' vectors, (batch, channels, 1), `None` for a single speaker."""
        import torch

        rows = [self._conditions[speech.voice] for speech in speeches]
        return None if rows[0] is None else torch.cat(rows)

    def _condition(self, voice: str) -> Any:
        """Return one speaker's vector, (1, channels, 1)."""
        import torch

        model, at = self._model, self._device.torch
        if not self._speakers:
            return None
        given: dict[str, Any] = {"speaker_ids": torch.tensor([self._speakers[voice]], device=at)}
        if model.args.use_d_vector_file:
            mean = np.asarray(model.speaker_manager.get_mean_embedding(voice), np.float32)
            given = {"d_vectors": torch.tensor(mean, device=at).unsqueeze(0)}
        return model._get_speaker_conditioning(given, "emb_g", normalize_embedding=False)


_NOTHING: Pcm = np.zeros(0, np.float32)


def _noise(speech: Speech, channels: int, length: int) -> Any:
    """Draw normal noise that depends on the speech alone, not on who shares its step."""
    import torch

    generator = torch.Generator().manual_seed(speech.noise.getrandbits(62))
    return torch.randn(channels, length, generator=generator)


def _speakers(model: Any) -> dict[str, int]:
    """Return the speakers by name; a model of one voice has none."""
    manager = model.speaker_manager
    uses = model.args.use_speaker_embedding or model.args.use_d_vector_file
    return dict(manager.name_to_id) if uses and manager is not None else {}


def _language(model: Any, wanted: str) -> tuple[str, int | None]:
    """Return the language of the text, and its number if the model speaks several."""
    known = model.language_manager.name_to_id
    if model.args.use_language_embedding and known:
        if wanted not in known:
            raise EngineError(f"coqui.language is {wanted!r}; this model speaks {', '.join(known)}")
        return wanted, known[wanted]
    return model.config.phoneme_language or next(iter(known), wanted), None
