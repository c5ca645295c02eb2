import numpy as np
import pytest
from faster_whisper.feature_extractor import FeatureExtractor

from asr.mel import log_mel, mel_filters

from speech import noise, say


@pytest.mark.parametrize("bands", [80, 128])
def test_the_picture_is_the_one_that_whisper_was_trained_on(bands: int) -> None:
    theirs = FeatureExtractor(feature_size=bands)
    filters = mel_filters(bands)
    np.testing.assert_allclose(filters, theirs.mel_filters, atol=1e-7)
    for pcm in (say("half past nine"), noise(1) * np.float32(0.1)):
        pcm = pcm[: len(pcm) // 160 * 160]
        picture = log_mel(pcm, filters)
        assert picture.dtype == np.float32
        assert picture.shape == (bands, len(pcm) // 160)
        np.testing.assert_allclose(picture, theirs(pcm, padding=0), atol=2e-3)
