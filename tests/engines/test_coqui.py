"""Coqui's models through their real loading path, with random weights of real shapes."""

import asyncio
import json
import pickle
import shutil
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if find_spec("TTS") is None:
    pytest.skip("coqui-tts is not installed", allow_module_level=True)

from demos.weights import xtts as xtts_weights  # noqa: E402
from tts import coqui_load  # noqa: E402
from tts.coqui import Coqui  # noqa: E402
from tts.coqui_load import load, look  # noqa: E402
from tts.coqui_options import CoquiOptions  # noqa: E402
from tts.engine import Chunk, EngineError, Pcm, Word  # noqa: E402
from tts.torch_device import Device  # noqa: E402

pytestmark = pytest.mark.timeout(300)

BOOKED = "You are booked for Tuesday at half past ten with Dr. Miller"  # 60 characters, nearly
PLAIN = CoquiOptions(device="cpu", threads=1, seed=7, normalise=False, trim=False)


@pytest.fixture
def folder(weights: Callable[[str, str], Path]) -> Callable[[str], Path]:
    """Return what makes the folder of a model of a size, once for all tests."""
    return lambda size: weights("xtts" if size in xtts_weights.SIZES else "vits", size)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


def loaded(path: Path, options: CoquiOptions = PLAIN) -> Any:
    return load(look(str(path)), Device("cpu", half=False, threads=1), options)


def begin(model: Any, text: str, voice: str = "", seed: int = 7) -> Any:
    return model.begin(text, text.split(), voice or model.voices[0], seed)


def drive(model: Any, speeches: Sequence[Any]) -> list[Pcm]:
    """Run speeches to their ends, in as few steps as they can share."""
    audio: list[list[Pcm]] = [[] for _ in speeches]
    while waiting := [n for n, speech in enumerate(speeches) if not speech.ended]:
        kind = model.kind(speeches[waiting[0]])
        together = [n for n in waiting if model.kind(speeches[n]) == kind]
        answers = model.run([speeches[n] for n in together])
        for number, answer in zip(together, answers, strict=True):
            assert not isinstance(answer, EngineError), answer
            audio[number].append(answer)
    return [np.concatenate(parts) for parts in audio]


def difference(a: Pcm, b: Pcm) -> float:
    """Return the power of a difference beside the whole, in dB."""
    assert a.shape == b.shape
    power = float(np.mean(np.square(a - b, dtype=np.float64)))
    return 10 * float(np.log10(max(power, 1e-30) / np.mean(np.square(b, dtype=np.float64))))


async def stream(*phrases: str) -> AsyncIterator[str]:
    for phrase in phrases:
        yield phrase


async def collect(chunks: AsyncGenerator[Chunk, None]) -> list[Chunk]:
    async with aclosing(chunks):
        return [chunk async for chunk in chunks]


def joined(chunks: Sequence[Chunk]) -> tuple[list[Word], Pcm]:
    return [w for c in chunks for w in c.words], np.concatenate([c.pcm for c in chunks])


async def started(path: Path, options: CoquiOptions = PLAIN) -> Coqui:
    engine = Coqui(str(path), options)
    await engine.start()
    return engine


# VITS


def encoded(model: Any, text: str) -> Any:
    speech = begin(model, text)
    model.run([speech])
    return speech


@pytest.mark.parametrize("size", ["tiny", "tiny-speakers", "ljspeech"])
def test_chunks_of_vits_joined_are_the_whole(folder: Callable[[str], Path], size: str) -> None:
    model = loaded(folder(size))
    (pcm,) = drive(model, [begin(model, BOOKED)])
    speech = encoded(model, BOOKED)
    whole = model._decoder(speech.latent[None], g=model._conditioning([speech]))[0, 0].numpy()
    assert pcm.size > 2 * model.rate
    assert difference(pcm, whole) < -60
    model.reach = 1
    (short,) = drive(model, [begin(model, BOOKED)])
    assert difference(short, whole) > -60, "the overlap is needed"


@pytest.mark.parametrize("size", ["tiny", "tiny-speakers"])
def test_without_noise_it_is_what_coqui_makes_of_it(
    folder: Callable[[str], Path], size: str
) -> None:
    model = loaded(folder(size))
    theirs = model._model
    theirs.inference_noise_scale = theirs.inference_noise_scale_dp = 0.0
    voice = model.voices[-1]
    speech = begin(model, BOOKED, voice)
    ids = torch.tensor([speech.ids])
    speaker = {"speaker_ids": torch.tensor([model._speakers[voice]])} if model._speakers else {}
    whole = theirs.inference(ids, {"x_lengths": torch.tensor([ids.shape[1]]), **speaker})
    (pcm,) = drive(model, [speech])
    assert difference(pcm, whole["model_outputs"][0, 0].numpy()) < -60


def test_calls_that_share_steps_of_vits_get_what_each_would_alone(
    folder: Callable[[str], Path],
) -> None:
    model = loaded(folder("tiny-speakers"))
    given = [(BOOKED, model.voices[0], 3), ("A far shorter one", model.voices[2], 4)]
    alone = [drive(model, [begin(model, *one)])[0] for one in given]
    steps = []
    run = model.run
    model.run = lambda speeches: (steps.append(len(speeches)), run(speeches))[1]
    together = drive(model, [begin(model, *one) for one in given])
    assert max(steps) == 2
    assert steps.count(2) >= 2  # the encoder and the first chunks at least
    for one, other in zip(together, alone, strict=True):
        assert difference(one, other) < -60


def test_first_audio_of_vits_takes_a_fraction_of_the_whole(folder: Callable[[str], Path]) -> None:
    model = loaded(folder("ljspeech"))
    assert sum(p.numel() for p in model._model.parameters()) > 20e6
    ratios = []
    for _ in range(3):
        speech = begin(model, BOOKED)
        begun, first = time.process_time(), 0.0
        while not speech.ended:
            (pcm,) = model.run([speech])
            if pcm.size and not first:
                first = time.process_time() - begun
        whole = time.process_time() - begun
        ratios.append(first / whole)
    print(f"vits: first audio in {median(ratios):.0%} of the whole, {sorted(ratios)}")
    assert median(ratios) <= 0.4


async def test_words_are_the_phrase_and_stand_where_they_sound(
    folder: Callable[[str], Path],
) -> None:
    engine = await started(folder("tiny"))
    phrases = ["It costs $21, Dr. Smith — all of it!", "Really?"]
    chunks = await collect(engine.speak(stream(*phrases), "", 0.0))
    words, pcm = joined(chunks)
    assert " ".join(word.text for word in words) == " ".join(phrases)
    assert all(a.start <= a.end <= b.start for a, b in pairwise(words))
    assert words[0].start == 0
    assert words[-1].end <= pcm.size
    at = 0
    for chunk in chunks:  # a word comes with the audio it begins in
        assert all(at <= word.start < at + chunk.pcm.size for word in chunk.words)
        at += chunk.pcm.size
    await engine.stop()


async def test_a_word_lasts_as_long_as_the_model_says(folder: Callable[[str], Path]) -> None:
    engine = await started(folder("tiny"))
    words, pcm = joined(await collect(engine.speak(stream("a incomprehensibilities a"), "", 0.0)))
    lengths = [word.end - word.start for word in words]
    assert lengths[1] > 5 * max(lengths[0], lengths[2])
    assert sum(lengths) > pcm.size * 0.7
    await engine.stop()


async def test_closing_stops_the_model_within_one_chunk(folder: Callable[[str], Path]) -> None:
    engine = await started(folder("tiny"), CoquiOptions(device="cpu", longest=0.3))
    assert engine._model is not None
    run, steps = engine._model.run, []

    def spy(speeches: Sequence[Any]) -> Any:
        steps.append(len(speeches))
        time.sleep(0.02)  # so that it cannot have run through before it is closed
        return run(speeches)

    engine._model.run = spy  # type: ignore[method-assign]
    speaking = engine.speak(stream(" ".join([BOOKED] * 3)), "", 0.0)
    await anext(speaking)
    await speaking.aclose()
    closed = len(steps)
    await asyncio.sleep(0.3)
    assert len(steps) <= closed + 1
    assert len(await collect(engine.speak(stream("Go on."), "", 0.0))) >= 1
    await engine.stop()


async def test_several_calls_at_once_each_get_their_own_voice_and_text(
    folder: Callable[[str], Path],
) -> None:
    engine = await started(folder("tiny-speakers"))
    assert engine.voices == ("VCTK_p225", "VCTK_p226", "VCTK_p227")
    texts = [BOOKED, "Goodbye.", "Who is it?", BOOKED]
    voices = ["VCTK_p225", "VCTK_p226", "", "VCTK_p227"]
    alone = [
        joined(await collect(engine.speak(stream(t), v, 0.0)))
        for t, v in zip(texts, voices, strict=True)
    ]
    together = await asyncio.gather(
        *(collect(engine.speak(stream(t), v, 0.0)) for t, v in zip(texts, voices, strict=True))
    )
    for (words, pcm), chunks in zip(alone, together, strict=True):
        assert joined(chunks)[0] == words
        assert difference(joined(chunks)[1], pcm) < -60
    assert difference(alone[0][1][:8000], alone[3][1][:8000]) > -20, "voices differ"
    await engine.stop()


async def test_loudness_is_as_wanted_and_phrases_begin_with_sound(
    folder: Callable[[str], Path],
) -> None:
    engine = await started(folder("tiny"), CoquiOptions(device="cpu", loudness=-26.0))
    _, pcm = joined(await collect(engine.speak(stream(BOOKED), "", 0.0)))
    loud = 20 * np.log10(np.sqrt(np.mean(np.square(pcm))))
    assert loud == pytest.approx(-26.0, abs=3)
    assert np.abs(pcm[: engine.rate // 100]).max() > 0.003
    assert pcm.dtype == np.float32
    await engine.stop()


async def test_ten_thousand_characters_are_spoken_in_pieces(folder: Callable[[str], Path]) -> None:
    engine = await started(folder("tiny"))
    text = " ".join([BOOKED.replace(" ", " — ") + "."] * 125)
    assert len(text) > 10_000
    words, seconds = [], 0.0
    async with aclosing(engine.speak(stream(text), "", 0.0)) as chunks:
        async for chunk in chunks:
            words += chunk.words
            seconds += chunk.pcm.size / engine.rate
            assert chunk.pcm.size < 3 * engine.rate
    assert " ".join(word.text for word in words) == text
    assert seconds > 200
    await engine.stop()


@pytest.mark.parametrize("phrase", ["", "  ", "…", "— ?!", "日本"])
async def test_nothing_speakable_yields_nothing(folder: Callable[[str], Path], phrase: str) -> None:
    engine = await started(folder("tiny"))
    assert await collect(engine.speak(stream(phrase), "", 0.0)) == []
    chunks = await collect(engine.speak(stream(phrase, "Hello."), "", 0.0))
    assert joined(chunks)[0][-1].text == "Hello."
    await engine.stop()


async def test_a_voice_it_has_not_got_is_an_error_that_names_the_others(
    folder: Callable[[str], Path],
) -> None:
    engine = await started(folder("tiny-speakers"))
    with pytest.raises(EngineError, match=r"no voice 'Bob' .* it has VCTK_p225, VCTK_p226"):
        await collect(engine.speak(stream("Hi."), "Bob", 0.0))
    await engine.stop()
    with pytest.raises(EngineError, match="not running"):
        await collect(engine.speak(stream("Hi."), "", 0.0))


async def test_a_model_that_fails_on_one_phrase_goes_on_with_the_next(
    folder: Callable[[str], Path],
) -> None:
    engine = await started(folder("tiny"))
    assert engine._model is not None
    decoder = engine._model._decoder  # type: ignore[attr-defined]
    weight = decoder.conv_post.weight.clone()
    decoder.conv_post.weight[:] = float("nan")
    with pytest.raises(EngineError, match=r"not numbers for 'Hello there\.'"):
        await collect(engine.speak(stream("Hello there."), "", 0.0))
    decoder.conv_post.weight[:] = weight
    assert await collect(engine.speak(stream("Hello there."), "", 0.0))
    await engine.stop()


async def test_memory_that_runs_out_fails_no_call_while_half_the_batch_fits(
    folder: Callable[[str], Path],
) -> None:
    engine = await started(folder("tiny"))
    assert engine._model is not None
    run, most = engine._model.run, []

    def tight(speeches: Sequence[Any]) -> Any:
        if len(speeches) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        most.append(len(speeches))
        return run(speeches)

    engine._model.run = tight  # type: ignore[method-assign]
    spoken = await asyncio.gather(
        *(collect(engine.speak(stream(BOOKED), "", 0.0)) for _ in range(4))
    )
    assert all(joined(chunks)[1].size > engine.rate for chunks in spoken)
    await engine.stop()


def test_phonemes_come_from_the_library(folder: Callable[[str], Path]) -> None:
    pytest.importorskip("espeakng_loader")
    model = loaded(folder("tiny-phonemes"))
    speech = begin(model, "Hello, this is one of the tests.")
    assert speech.symbols == "həlˈoʊ, ðɪs ɪz wˈʌn ʌvðə tˈɛsts."
    (pcm,) = drive(model, [speech])
    assert pcm.size > model.rate / 2
    words = speech.times.until(0, ended=True)
    assert " ".join(word.text for word in words) == speech.text
    assert words[-1].end <= pcm.size


def test_a_model_of_several_languages_with_speakers_by_vectors(
    folder: Callable[[str], Path],
) -> None:
    path = folder("tiny-languages")
    audio = {}
    for language in ("en", "fr-fr"):
        model = loaded(path, CoquiOptions(device="cpu", language=language))
        assert model.voices == ("female-en-5", "male-en-2")
        model._model.inference_noise_scale = model._model.inference_noise_scale_dp = 0.0
        speech = begin(model, BOOKED, "male-en-2")
        (audio[language],) = drive(model, [speech])
    assert audio["en"].shape != audio["fr-fr"].shape or difference(*audio.values()) > -20
    with pytest.raises(EngineError, match="is 'de'; this model speaks en, fr-fr, pt-br"):
        loaded(path, CoquiOptions(device="cpu", language="de"))


# What may change while calls go on.


@pytest.mark.parametrize("size", ["tiny", "cut"])
def test_the_next_phrase_has_other_chunks_and_the_one_under_way_keeps_its_own(
    folder: Callable[[str], Path], size: str
) -> None:
    model = loaded(folder(size))
    if size == "cut":
        endless(model, 60)

    def first_chunk(speech: Any) -> int:
        while True:
            (pcm,) = model.run([speech])
            if pcm.size:
                return int(pcm.size)

    under_way, later = begin(model, BOOKED), None
    usual = first_chunk(begin(model, BOOKED))
    model.adjust(CoquiOptions(device="cpu", first=0.1, longest=0.5))
    later = begin(model, BOOKED)
    assert first_chunk(under_way) == usual
    assert first_chunk(later) == pytest.approx(0.1 * model.rate, abs=model.hop)
    assert usual == pytest.approx(0.3 * model.rate, abs=model.hop)


def test_a_step_is_shared_by_as_many_as_was_said_last(folder: Callable[[str], Path]) -> None:
    model = loaded(folder("cut"))
    speech = begin(model, "Who is it?")
    model.run([speech])
    assert model.kind(speech) == "write"
    assert model.most(speech) == PLAIN.batch
    model.adjust(CoquiOptions(device="cpu", batch=2))
    assert model.most(speech) == 2


async def test_an_engine_changes_what_its_model_can(folder: Callable[[str], Path]) -> None:
    engine = Coqui(str(folder("tiny")), PLAIN)
    assert engine.adjustable == ()
    with pytest.raises(ValueError, match=r"cannot change coqui\.first while it runs, but nothing"):
        engine.adjust("coqui.first", 0.2)
    await engine.start()
    assert engine.adjustable == ("coqui.first", "coqui.longest")  # on a CPU nobody shares a step
    whole = joined(await collect(engine.speak(stream(BOOKED), "", 0.0)))[1]
    engine.adjust("coqui.first", 0.1)
    engine.adjust("coqui.longest", 0.2)
    chunks = await collect(engine.speak(stream(BOOKED), "", 0.0))
    assert chunks[0].pcm.size < 0.15 * engine.rate
    assert max(chunk.pcm.size for chunk in chunks[:-1]) < 0.35 * engine.rate
    assert difference(joined(chunks)[1], whole) < -60
    with pytest.raises(ValueError, match=r"coqui\.first is 9\.0; expected 0\.05 to 2"):
        engine.adjust("coqui.first", 9)
    with pytest.raises(ValueError, match=r"cannot change coqui\.batch while it runs"):
        engine.adjust("coqui.batch", 2)
    await engine.stop()


# Folders


def test_torchcodec_is_not_left_behind(folder: Callable[[str], Path]) -> None:
    folder("tiny")
    assert "TTS" in sys.modules
    assert "torchcodec" not in sys.modules


async def test_the_licence_is_told_where_the_voice_is_chosen(
    folder: Callable[[str], Path], tmp_path: Path
) -> None:
    assert "licence: not stated in the folder." in Coqui(str(folder("tiny"))).about
    named = tmp_path / "tts_models--multilingual--multi-dataset--xtts_v2"
    shutil.copytree(folder("cut"), named)
    engine = Coqui(str(named))
    assert engine.licence == "CPML, non-commercial"
    assert "licence: CPML, non-commercial." in engine.about


def broken(source: Path, target: Path, **files: bytes) -> Path:
    shutil.copytree(source, target)
    for name, content in files.items():
        (target / name.replace("__", ".")).write_bytes(content)
    return target


async def test_wrong_and_truncated_files_are_errors_with_a_remedy(
    folder: Callable[[str], Path], tmp_path: Path
) -> None:
    good = folder("tiny")
    with pytest.raises(EngineError, match=r"no folder .* give the folder of a Coqui"):
        Coqui(str(tmp_path / "nowhere"))
    with pytest.raises(EngineError, match=r"no config\.json"):
        Coqui(str(tmp_path))
    for config in (b"{", b"[]", b'{"model": "vits"}'):
        with pytest.raises(EngineError, match="is not Coqui's"):
            Coqui(str(broken(good, tmp_path / f"c{len(config)}", config__json=config)))
    other = json.loads((good / "config.json").read_text()) | {"model": "tacotron2"}
    with pytest.raises(EngineError, match="only vits and xtts"):
        Coqui(str(broken(good, tmp_path / "o", config__json=json.dumps(other).encode())))

    weights = (good / "model_file.pth").read_bytes()
    for number, content in enumerate((weights[: len(weights) // 2], b"", b"not a model")):
        path = broken(good, tmp_path / f"w{number}", model_file__pth=content)
        with pytest.raises(EngineError, match="truncated, or do not belong"):
            await Coqui(str(path), PLAIN).start()
    path = broken(folder("tiny-speakers"), tmp_path / "x", model_file__pth=weights)
    with pytest.raises(EngineError, match="truncated, or do not belong"):
        await Coqui(str(path), PLAIN).start()
    path = broken(good, tmp_path / "n")
    (path / "model_file.pth").unlink()
    with pytest.raises(EngineError, match=r"Found: none; name it model\.pth"):
        await Coqui(str(path), PLAIN).start()
    path = broken(folder("cut"), tmp_path / "v")
    (path / "vocab.json").unlink()
    with pytest.raises(EngineError, match=r"no vocab\.json"):
        await Coqui(str(path), PLAIN).start()


class Bomb:
    """Pickled, it runs code where it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


async def test_no_code_in_a_model_is_run(folder: Callable[[str], Path], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for size, name, content in [
        ("tiny", "model_file.pth", {"model": Bomb(mark)}),
        ("cut", "model.pth", {"model": Bomb(mark)}),
        ("cut", "speakers_xtts.pth", {"Bob": Bomb(mark)}),
    ]:
        path = broken(folder(size), tmp_path / f"{size}-{name}")
        torch.save(content, path / name)
        with pytest.raises(EngineError, match="do not load"):
            await Coqui(str(path), PLAIN).start()
        (path / name).write_bytes(pickle.dumps(content))
        with pytest.raises(EngineError, match="do not load"):
            await Coqui(str(path), PLAIN).start()
        assert not mark.exists()
    pickle.loads((path / name).read_bytes())
    assert mark.exists()


def test_a_gpu_that_is_not_there_is_an_error(folder: Callable[[str], Path]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(EngineError, match=r"coqui\.device is 'cuda:1', but torch sees no GPU"):
        Device("cuda:1", half=True, threads=0)


# XTTS


def endless(model: Any, most: int) -> None:
    """Let the model never stop by itself, but after `most` tokens."""
    model._gpt.mel_head.bias[model._gpt.stop_audio_token] = -1e9
    begin_ = model.begin

    def limited(*given: Any) -> Any:
        speech = begin_(*given)
        speech.most = most
        return speech

    model.begin = limited


def test_xtts_writes_what_coqui_would(folder: Callable[[str], Path]) -> None:
    model = loaded(folder("cut"))
    model._model.config.top_k = 1  # no chance, so that both draw the same
    endless(model, 40)
    speech = begin(model, "Hello, who is it?")
    while not speech.complete:
        model.run([speech])
    gpt, theirs = model._gpt, []
    latents, vector = model._known[model.voices[0]]
    prompt = gpt.compute_embeddings(latents, torch.tensor([speech.ids]))
    for token, latent in gpt.get_generator(
        fake_inputs=prompt,
        do_sample=True,
        top_k=1,
        num_beams=1,
        num_return_sequences=1,
        repetition_penalty=model._model.config.repetition_penalty,
        return_dict_in_generate=True,
        output_attentions=False,
        output_hidden_states=True,
    ):
        theirs.append((int(token), latent[0]))
        if len(theirs) == 40:
            break
    assert speech.tokens == [token for token, _ in theirs]
    ours = torch.stack(speech.latents)
    assert torch.allclose(ours, torch.stack([latent for _, latent in theirs]), atol=1e-3)

    (pcm,) = drive(model, [begin(model, "Hello, who is it?")])
    whole = model._model.hifigan_decoder(ours[None], g=vector)[0, 0].numpy()
    assert difference(pcm, whole) < -60


def test_calls_that_share_steps_of_xtts_get_what_each_would_alone(
    folder: Callable[[str], Path],
) -> None:
    model = loaded(folder("cut"))
    given = [
        ("You are booked for Tuesday.", model.voices[0], 3),
        ("Who is it?", model.voices[1], 4),
        ("Why is it?", model.voices[0], 5),
    ]
    alone = [drive(model, [begin(model, *one)])[0] for one in given]
    together = drive(model, [begin(model, *one) for one in given])
    for one, other in zip(together, alone, strict=True):
        assert difference(one, other) < -60


def test_the_time_of_xtts_grows_with_the_audio_and_no_faster(
    folder: Callable[[str], Path],
) -> None:
    model = loaded(folder("cut"))
    endless(model, 200)
    speech = begin(model, BOOKED)
    begun, first = time.process_time(), 0.0
    costs: list[float] = []  # of one second of audio, chunk by chunk
    while not speech.ended:
        kind, before = model.kind(speech), time.process_time()
        (pcm,) = model.run([speech])
        if kind[0] == "decode":
            costs.append((time.process_time() - before) / (pcm.size / model.rate))
        if pcm.size and not first:
            first = time.process_time() - begun
    whole = time.process_time() - begun
    same = costs[6:-1]  # by then chunks are of one length, but for the last
    print(f"xtts: first audio after {first:.2f} s of {whole:.2f}, {len(costs)} chunks {costs}")
    assert len(same) >= 3
    assert median(same[len(same) // 2 :]) < 1.5 * median(same[: len(same) // 2])
    assert first < 0.2 * whole


async def test_xtts_speaks_with_words_and_ends_a_sentence_that_does_not_end(
    folder: Callable[[str], Path],
) -> None:
    engine = await started(folder("cut"))
    assert engine.voices == ("Claribel Dervla", "Daisy Studious")
    assert engine.rate == 24_000
    endless(engine._model, 60)
    chunks = await collect(engine.speak(stream("Hello there, you."), "Daisy Studious", 0.0))
    words, pcm = joined(chunks)
    assert " ".join(word.text for word in words) == "Hello there, you."
    assert all(a.start <= a.end <= b.start for a, b in pairwise(words))
    assert chunks[0].words
    assert pcm.size / engine.rate == pytest.approx(60 * 1024 / 22_050, abs=0.05)
    await engine.stop()


async def test_closing_frees_the_row_of_the_cache(folder: Callable[[str], Path]) -> None:
    engine = await started(folder("cut"))
    assert engine._model is not None
    endless(engine._model, 100)
    cache = engine._model._cache  # type: ignore[attr-defined]
    speaking = [engine.speak(stream(BOOKED), "", 0.0) for _ in range(2)]
    await asyncio.gather(*map(anext, speaking))
    assert len(cache._free) < cache._rows
    for one in speaking:
        await one.aclose()
    while len(cache._free) < cache._rows:  # within the step that runs
        await asyncio.sleep(0.01)
    assert sorted(cache._free) == list(range(cache._rows))
    await engine.stop()


async def test_a_recording_in_the_folder_is_a_voice(
    folder: Callable[[str], Path], tmp_path: Path
) -> None:
    import wave

    path = tmp_path / "model"
    shutil.copytree(folder("cut"), path)
    (path / "voices").mkdir()
    noise = np.random.default_rng(0).integers(-9000, 9000, 3 * 16_000).astype(np.int16)
    with wave.open(str(path / "voices" / "Maria.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(noise.tobytes())
    model = loaded(path)
    assert model.voices[-1] == "Maria"
    speech = begin(model, "Hi.", "Maria")
    assert drive(model, [speech])[0].size
    (path / "voices" / "Bad.wav").write_bytes(b"RIFF")
    with pytest.raises(EngineError, match=r"Bad\.wav is not a WAV file of 16 bits"):
        loaded(path)
    with wave.open(str(path / "voices" / "Bad.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(noise[:4_000].tobytes())
    with pytest.raises(EngineError, match=r"Bad\.wav lasts 0\.25 s; give it 3 to 10 s"):
        loaded(path)


def test_the_stand_in_is_removed_when_the_import_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "TTS.config", None)
    with pytest.raises(EngineError, match="install it with"):
        coqui_load.import_tts()
    assert "torchcodec" not in sys.modules


@pytest.mark.gpu
@pytest.mark.parametrize("size", ["ljspeech", "cut"])
async def test_on_a_gpu_in_half_precision_calls_share_steps(
    folder: Callable[[str], Path], size: str
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    engine = await started(folder(size), CoquiOptions(device="cuda", seed=7))
    assert engine._model is not None
    run, shared = engine._model.run, []
    engine._model.run = lambda speeches: (shared.append(len(speeches)), run(speeches))[1]  # type: ignore[method-assign]
    spoken = await asyncio.gather(
        *(collect(engine.speak(stream(BOOKED), "", 0.0)) for _ in range(8))
    )
    assert max(shared) == 8
    assert all(joined(chunks)[1].size for chunks in spoken)
    assert all(np.isfinite(joined(chunks)[1]).all() for chunks in spoken)
    await engine.stop()
