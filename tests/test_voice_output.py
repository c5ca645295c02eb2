import numpy as np

from tts.engine import Word
from tts.loudness import LeadingSilence, Leveller
from tts.voice_output import Output
from tts.word_times import Timed

RATE = 1000


def tone(samples: int, level: float = 0.5) -> np.ndarray:
    return np.full(samples, level, np.float32)


def test_words_count_from_the_first_sample_of_the_whole() -> None:
    output = Output(700, 0, None, None)
    times = Timed([Word("a", 0, 80), Word("b", 100, 150)])
    assert output.push(tone(100), times, ended=False).words == (Word("a", 700, 780),)
    assert output.push(tone(100), times, ended=True).words == (Word("b", 800, 850),)
    assert output.given == 200


def test_a_pause_and_what_was_cut_move_the_words() -> None:
    output = Output(700, 20, LeadingSilence(RATE, keep=0.005), None)
    times = Timed([Word("a", 0, 80), Word("b", 80, 100)])
    chunk = output.push(tone(30, 0.0), times, ended=False)
    assert (chunk.pcm.size, chunk.words) == (0, ())
    assert output.given == 0
    chunk = output.push(np.concatenate((tone(10, 0.0), tone(60))), times, ended=False)
    # Of 40 samples of silence 35 were cut, and 20 came before it all.
    assert chunk.pcm.size == 20 + 5 + 60
    assert not chunk.pcm[:25].any()
    assert chunk.words == (Word("a", 720, 765), Word("b", 765, 785))


def test_audio_that_is_all_silence_still_tells_its_words() -> None:
    output = Output(0, 20, LeadingSilence(RATE), None)
    chunk = output.push(tone(100, 0.0), Timed([Word("a", 0, 80)]), ended=True)
    assert [word.text for word in chunk.words] == ["a"]
    assert chunk.words[0].start == 0
    assert chunk.words[0].start <= chunk.words[0].end


def test_the_level_is_set_before_silence_is_looked_for() -> None:
    output = Output(0, 0, LeadingSilence(RATE), Leveller(RATE, -20.0, gain_db=20.0))
    chunk = output.push(tone(100, 0.002), Timed([]), ended=False)
    assert chunk.pcm.size == 100
