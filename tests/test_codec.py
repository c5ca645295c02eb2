"""Payloads to samples and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.codec import CLOCKS, CONCEALED, SPEAKING_RATE, Decoder, Encoder, Pcm, opus_samples
from transport.line import HEARING_RATE
from transport.opus import OpusDecoder, OpusEncoder, library

from speech import resample, say

FRAME = SPEAKING_RATE // 50
HEARD = HEARING_RATE // 50
PYAV = "opus through PyAV"
NAMES = [*CLOCKS, PYAV]


@pytest.fixture
def codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The codec under test; Opus with libopus and without."""
    name: str = request.param
    if name == PYAV:
        monkeypatch.setattr("transport.codec.library", lambda: None)
        return "opus"
    return name


def tone(seconds: float, rate: int = SPEAKING_RATE) -> Pcm:
    """A loud tone of 440 Hz."""
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def payloads(codec: str, pcm: Pcm) -> list[bytes]:
    """Encode whole frames of `pcm`."""
    encoder = Encoder(codec)
    return [encoder.encode(frame) for frame in pcm.reshape(-1, FRAME)]


def lag(sent: Pcm, heard: Pcm) -> int:
    """By how many samples `heard` is behind `sent`."""
    length = min(len(sent), len(heard)) - 800
    return int(np.argmax([np.dot(heard[shift:][:length], sent[:length]) for shift in range(800)]))


@pytest.mark.parametrize("codec", NAMES, indirect=True)
def test_every_frame_is_one_payload_and_comes_back_as_20_ms(codec: str) -> None:
    decoder = Decoder(codec)
    made = payloads(codec, tone(0.5))
    assert [decoder.samples(payload) for payload in made] == [CLOCKS[codec] // 50] * 25
    heard = [len(decoder.decode(payload)) for payload in made]
    assert heard[1:] == [HEARD] * 24
    assert HEARD - 40 <= heard[0] <= HEARD


@pytest.mark.parametrize(
    ("codec", "longest"),
    [("opus", 112), (PYAV, 120), ("PCMU", 48), ("PCMA", 48)],
    indirect=["codec"],
)
def test_noise_comes_back_within_a_few_milliseconds(codec: str, longest: int) -> None:
    noise = np.random.default_rng(1).standard_normal(HEARING_RATE).astype(np.float32) * 0.1
    smooth = np.convolve(noise, np.hanning(16).astype(np.float32) / 8, "same")
    sent = np.interp(np.arange(SPEAKING_RATE) / 3, np.arange(HEARING_RATE), smooth)
    decoder = Decoder(codec)
    made = payloads(codec, sent.astype(np.float32))
    heard = np.concatenate([decoder.decode(payload) for payload in made])
    assert lag(smooth, heard) <= longest


@pytest.mark.parametrize("codec", NAMES, indirect=True)
def test_a_short_loss_sounds_like_what_was_before_and_fades(codec: str) -> None:
    decoder = Decoder(codec)
    for payload in payloads(codec, tone(0.4)):
        decoder.decode(payload)
    stand_in = decoder.conceal(CLOCKS[codec] // 2)
    levels = [float(np.abs(piece).max()) for piece in stand_in.reshape(-1, HEARD)]
    assert len(stand_in) == HEARING_RATE // 2
    assert levels[0] > 0.1
    assert levels[0] > levels[3]
    silent_from = round(CONCEALED / 0.02) + 1
    assert max(levels[silent_from:]) == 0


@pytest.mark.parametrize("codec", NAMES, indirect=True)
def test_audio_goes_on_after_a_loss(codec: str) -> None:
    decoder = Decoder(codec)
    made = payloads(codec, tone(0.4))
    for payload in made[:10]:
        decoder.decode(payload)
    decoder.conceal(CLOCKS[codec] // 50)
    heard = np.concatenate([decoder.decode(payload) for payload in made[11:]])
    assert np.sqrt(np.mean(heard[-HEARD:] ** 2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.2)


@pytest.mark.parametrize(
    ("payload", "samples"),
    [
        (b"", 0),
        (bytes([0 << 3]), 480),  # SILK, 10 ms
        (bytes([3 << 3]), 2880),  # SILK, 60 ms
        (bytes([15 << 3]), 960),  # hybrid, 20 ms
        (bytes([16 << 3]), 120),  # CELT, 2.5 ms
        (bytes([(31 << 3) | 1]), 1920),  # two frames of 20 ms
        (bytes([(31 << 3) | 3]), 0),  # a count that is not there
        (bytes([(31 << 3) | 3, 6]), 5760),  # six frames of 20 ms
        (bytes([(31 << 3) | 3, 7]), 0),  # 140 ms
    ],
)
def test_the_length_of_an_opus_packet_is_in_its_first_bytes(payload: bytes, samples: int) -> None:
    assert opus_samples(payload) == samples


def spoken() -> Pcm:
    """Half a second of speech, whole frames."""
    voice = resample(say("Good morning to you."), HEARING_RATE, SPEAKING_RATE)
    return voice[10 * FRAME : 35 * FRAME].astype(np.float32)


def test_what_was_lost_is_repaired_from_the_payload_after_it() -> None:
    made = payloads("opus", spoken())
    likeness = []
    for following in (True, False):
        whole, torn = Decoder("opus"), Decoder("opus")
        dots = []
        for number, payload in enumerate(made[:-1]):
            heard = whole.decode(payload)
            if number % 4 == 3:
                stand_in = torn.conceal(FRAME, made[number + 1] if following else None)
                scale = np.linalg.norm(heard) * np.linalg.norm(stand_in)
                dots.append(float(np.dot(heard, stand_in) / max(scale, 1e-9)))
            else:
                torn.decode(payload)
        likeness.append(np.mean(dots))
    repaired, guessed = likeness
    assert repaired > 0.7
    assert repaired > guessed + 0.1


def test_a_loss_of_any_length_has_a_stand_in_of_that_length() -> None:
    decoder = Decoder("opus")
    made = payloads("opus", spoken())
    for payload in made[:5]:
        decoder.decode(payload)
    for samples in (1, 119, 120, 960, 961, 2880, 4799, 4800, 4801, 48_000):
        for following in (None, made[6], b"\xff", b""):
            expected = round(samples * HEARING_RATE / SPEAKING_RATE)
            assert len(decoder.conceal(samples, following)) == expected


def test_libopus_says_no_in_words() -> None:
    lib = library()
    assert lib is not None
    with pytest.raises(MemoryError, match="12345 Hz"):
        OpusDecoder(lib, 12_345)
    encoder = OpusEncoder(lib, SPEAKING_RATE, bit_rate=32_000, complexity=1, loss=10)
    with pytest.raises(ValueError, match="17 samples"):
        encoder.encode(np.zeros(17, np.float32))
    assert OpusDecoder(lib, HEARING_RATE).decode(b"\xff\xff") is None


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(list(CLOCKS)), st.lists(st.binary(max_size=80), max_size=8))
def test_whatever_arrives_is_decoded_or_concealed_in_its_length(
    codec: str, arrivals: list[bytes]
) -> None:
    decoder = Decoder(codec)
    for payload in arrivals:
        expected = decoder.samples(payload) * HEARING_RATE / decoder.rate
        pcm = decoder.decode(payload)
        assert pcm.dtype == np.float32
        assert abs(len(pcm) - expected) <= 64  # what changing the rate holds back
    good = payloads(codec, tone(0.02))[0]
    assert len(decoder.decode(good)) >= HEARD - 40
