"""What a sound under the agent's words is: an interruption, or nothing to stop for. Pure.

The agent's sound is paused as soon as anybody seems to speak; this decides
whether it goes on from the paused word or is given up. Evidence comes in
pieces: first the echo guard's word, then the sound's length, then words. Ask
again with every new piece, and with time: what was nothing to stop for at
first ("mhm") may go on as an interruption ("mhm, but …").

Waiting has a bound: a sound that goes on is ruled upon after
`longest_back_channel` at the latest, and one that is over after `patience` of
silence. It costs little, because the agent is silent already.
"""

from dataclasses import dataclass
from enum import Enum, auto

from asr.echo import Echo

BACK_CHANNELS = frozenset(
    {
        *("mhm", "mm", "mmm", "mm hm", "mm hmm", "mmhm", "mmhmm", "hm", "hmm", "um hum"),
        *("uh huh", "uhhuh", "uhuh", "aha", "ah", "oh", "ooh", "huh", "uh", "um"),
        *("yeah", "yes", "yep", "yup", "ya", "right", "all right", "alright", "that's right"),
        *("okay", "ok", "o k", "sure", "exactly", "i see", "got it", "of course", "really"),
        *("good", "great", "fine", "perfect", "cool", "nice", "very good", "thank you", "thanks"),
    }
)
"""English words that tell a speaker to go on. Those of the Switchboard corpus tagged
"acknowledge" and "agree" (Jurafsky, Shriberg and Biasca, SWBD-DAMSL, 1997: uh-huh, yeah, right,
oh, yes, okay, huh, sure, really, …), and how recognisers spell them. "No", "wait", "stop", "what"
and "sorry" are none: they ask the speaker for something."""

ANSWERS = {
    "yes_no": frozenset(
        {
            *("yes", "yeah", "yep", "yup", "ya", "right", "that's right", "all right", "alright"),
            *("okay", "ok", "o k", "sure", "exactly", "of course", "good", "great", "fine"),
            *("perfect", "very good", "mhm", "mm hm", "mm hmm", "mmhm", "mmhmm", "uh huh"),
        }
    )
}
"""Back-channels that are an answer when the agent has just asked about a topic."""


class Ruling(Enum):
    """What becomes of the paused reply."""

    WAIT = auto()
    """Not known yet; it stays paused."""
    INTERRUPT = auto()
    """The caller wants the floor; it is given up."""
    RESUME = auto()
    """Nothing to stop for; it goes on from the paused word."""


@dataclass(slots=True)
class Sound:
    """What is known of a sound that began while the agent spoke.

    Attributes:
        seconds: How long it has lasted since it began or since the last `RESUME`,
            without the silence after it.
        ended: Whether it is silent again.
        silence: Seconds of silence since, 0 while it goes on.
        words: What the recogniser made of it, "" if nothing yet.
        confidence: Probability that `words` are right and meant for the agent, 0 to 1.
        final: Whether the recogniser has finished.
        expects: Topic that the agent has just asked about, "" for none.
        level_db: RMS of the sound, in dBFS; the guard's residual counts where there is one.
        usual_db: That of this caller's speech so far, None if unknown.
        echo: The echo guard's word on the least explained stretch of it, None if none yet.
    """

    seconds: float
    ended: bool = False
    silence: float = 0.0
    words: str = ""
    confidence: float = 1.0
    final: bool = False
    expects: str = ""
    level_db: float = 0.0
    usual_db: float | None = None
    echo: Echo | None = None

    def explained(self, echo: Echo) -> None:
        """Take the guard's word on the latest stretch: what was no echo once is none."""
        if self.echo is None or echo.similarity < self.echo.similarity:
            self.echo = echo


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptionSettings:
    """How easily the agent gives up the floor. Durations are in seconds.

    Attributes:
        similarity: Share of a sound's power explained by the agent's own voice
            from which it is an echo. Less ignores more echoes, and more callers.
        believed: Confidence from which words interrupt. Back-channels need none: to go on
            by mistake is mended by the next word, and their confidence is often low.
        wordless: Sound without words that interrupts; shorter ones are coughs.
        doubted: Sound that interrupts once it is over, if its words are hardly believed but
            certainly no back-channel: not to stop for "stop" is worse than to stop for a cough.
        longest_back_channel: Sound with nothing but back-channels that interrupts.
        patience: Silence in which the recogniser must have had its word.
        quiet_db: How far under the caller's usual level a sound is somebody else's,
            for which nothing stops unless it has words.
    """

    similarity: float = 0.75
    believed: float = 0.4
    wordless: float = 0.7
    doubted: float = 0.4
    longest_back_channel: float = 1.5
    patience: float = 0.6
    quiet_db: float = 15.0

    def __post_init__(self) -> None:
        for name in ("similarity", "believed"):
            if not 0 < (share := getattr(self, name)) <= 1:
                raise ValueError(f"{name} is {share}; expected more than 0, at most 1")
        if not 0.1 <= self.wordless <= self.longest_back_channel <= 5:
            raise ValueError(
                f"wordless is {self.wordless} s and longest_back_channel "
                f"{self.longest_back_channel} s; expected 0.1 to 5 s, in this order"
            )
        if not 0 < self.doubted <= self.wordless:
            raise ValueError(
                f"doubted is {self.doubted} s; expected more than 0, at most {self.wordless} s"
            )
        if not 0 < self.patience <= 5:
            raise ValueError(f"patience is {self.patience} s; expected more than 0, at most 5 s")


def judge(sound: Sound, settings: InterruptionSettings) -> Ruling:
    """Rule on a sound; ask again while it goes on, whatever the ruling was."""
    if sound.echo is not None and sound.echo.similarity >= settings.similarity:
        return Ruling.RESUME
    phrases = back_channels(sound.words, sound.final)
    if sound.confidence >= settings.believed and (
        phrases is None or ANSWERS.get(sound.expects, frozenset()) & set(phrases)
    ):
        return Ruling.INTERRUPT
    if _far(sound, settings):
        return Ruling.RESUME
    if sound.ended and not sound.final and sound.silence < settings.patience:
        return Ruling.WAIT  # words may be on their way, and nobody speaks
    limit = settings.longest_back_channel if phrases else settings.wordless
    if phrases is None and sound.final:
        limit = settings.doubted
    if sound.seconds >= limit:
        return Ruling.INTERRUPT
    return Ruling.RESUME if sound.ended else Ruling.WAIT


def _far(sound: Sound, settings: InterruptionSettings) -> bool:
    """Whether a sound is so much quieter than the caller that it is somebody else's."""
    if sound.usual_db is None:
        return False
    level_db = sound.level_db if sound.echo is None else sound.echo.residual_db
    return level_db < sound.usual_db - settings.quiet_db


def back_channels(text: str, final: bool = True) -> list[str] | None:
    """Return the back-channels that `text` consists of, in order; None if it says more.

    Unless it is `final`, a last word that may become one ("I", of "I see") is passed over.
    """
    words = "".join(c for c in text.lower().replace("-", " ") if c.isalnum() or c in " '").split()
    found = []
    while words:
        for count in (2, 1):
            phrase = " ".join(words[:count])
            if phrase in BACK_CHANNELS:
                found.append(phrase)
                del words[:count]
                break
        else:
            return found if not final and len(words) == 1 and words[0] in _OPENINGS else None
    return found


_OPENINGS = {phrase.split()[0] for phrase in BACK_CHANNELS if " " in phrase}
