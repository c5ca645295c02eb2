"""Puts RTP audio back into order for a machine that listens.

A telephone has to play 20 ms every 20 ms, so its jitter buffer holds every packet
back for the worst delay it expects. A listener (voice activity detection, speech
recognition) has no such clock: it may take three packets at once and none for
60 ms. So a packet that is next in line is handed out in the call that brings it,
and the only thing ever waited for is a packet that was overtaken:

- clean network: 0 ms of delay, whatever the jitter, as long as the order holds;
- a packet is missing: those behind it wait until it comes, at the longest for the
  spread of delays measured on this call (98 % of the last 256 packets, 20 to
  120 ms, 40 ms until 16 packets were seen); then it is given up as `Lost` and all
  that waited comes out at once. The wait leaves no delay behind.

Nothing is played out, so the sender's clock cannot run away from ours: a drift of
any size changes no delay, and audio is never inserted or dropped because of it.

A sender may also stop (discontinuous transmission, a muted telephone, a stall).
After 0.2 s without a packet the pause so far is handed out as `Silence`, then 20 ms
at a time, so that the caller is heard falling silent. What the next timestamp then
says was lost or silent is handed out less that silence. Audio that a stall held up
comes late but whole: words are worth more than a timeline.

No I/O, no clock, no task: `put` packets, call `tick` at `deadline`. What a peer does
wrong is counted, never raised. Memory is bounded by `CAPACITY` packets.
"""

from collections import deque
from dataclasses import dataclass

FIRST_WAIT = 0.04
"""Seconds to wait for a missing packet before the jitter was measured."""

MIN_WAIT = 0.02
"""Seconds to wait for a missing packet at least: what reordering costs on a good network."""

MAX_WAIT = 0.12
"""Seconds to wait at most; a recogniser bridges a missing syllable, a caller not a longer pause."""

COVERAGE = 0.98
"""Share of packets that come within the wait."""

WINDOW = 256
"""Packets whose delays are remembered: 5 s at 20 ms, in which a clock 300 ppm off moves 1.5 ms."""

ENOUGH = 16
"""Packets after which the measured delays are believed."""

CAPACITY = 64
"""Packets that may wait behind a missing one."""

STARVED = 0.2
"""Seconds without a packet after which the sender counts as silent."""

STEP = 0.02
"""Seconds of silence handed out at a time from then on."""

LONGEST_HOLE = 1.0
"""Seconds that a timestamp may leave out; beyond it the sender's clock has jumped."""

MAX_DROPOUT = 3000
"""Packets a sequence number may jump ahead (RFC 3550, appendix A.1)."""

MAX_MISORDER = 100
"""Packets a sequence number may fall back (RFC 3550, appendix A.1)."""

SOURCE_LEFT = 1.0
"""Seconds for which stragglers of a source that was replaced are still expected."""


@dataclass(slots=True)
class Packet:
    """Audio, in order.

    Attributes:
        sequence: Its number; grows by one a packet, without wrapping.
        timestamp: Its first sample in the sender's clock, 32 bits.
        payload: As it came.
        samples: Its length, in samples of the RTP clock.
        arrived: When it came, in seconds of the caller's clock.
    """

    sequence: int
    timestamp: int
    payload: bytes
    samples: int
    arrived: float


@dataclass(slots=True)
class Lost:
    """Audio that was sent and did not come, in samples of the RTP clock: conceal it."""

    samples: int


@dataclass(slots=True)
class Silence:
    """Time in which nothing was sent, in samples of the RTP clock."""

    samples: int


Heard = Packet | Lost | Silence


@dataclass(slots=True)
class Statistics:
    """What happened so far, in packets.

    Attributes:
        received: All that were put.
        lost: Given up; those that came later after all are `late` too.
        late: Came after they had been given up, or from a source that was replaced.
        duplicates: Came again.
        reordered: Were overtaken, but came in time.
        discarded: Had an impossible sequence number.
        restarts: Times the source or its numbering began anew.
        wait: Seconds that a missing packet is now waited for.
    """

    received: int = 0
    lost: int = 0
    late: int = 0
    duplicates: int = 0
    reordered: int = 0
    discarded: int = 0
    restarts: int = 0
    wait: float = FIRST_WAIT


class JitterBuffer:
    """One caller's audio packets, in whatever order they come."""

    def __init__(self, rate: int) -> None:
        """Count timestamps at `rate`, in hertz of the RTP clock (48000 for Opus)."""
        self.rate = rate
        self.statistics = Statistics()
        self._source: int | None = None
        self._left: int | None = None
        self._left_until = 0.0
        self._begin(0)

    def _begin(self, sequence: int) -> None:
        """Expect a new numbering, `sequence` first."""
        self._first = self._next = self._highest = sequence
        self._suspect: int | None = None
        self._waiting: dict[int, Packet] = {}  # in order of arrival
        self._given_up: deque[int] = deque(maxlen=WINDOW)
        self._transits: deque[float] = deque(maxlen=WINDOW)
        self._clock = 0  # a timestamp without wrapping, the reference for the next
        self._end: int | None = None  # timestamp after the last sample handed out
        self._due: float | None = None  # when the next packet should come
        self._padded = 0  # samples of silence handed out since the last packet

    @property
    def waiting(self) -> int:
        """Packets that wait behind a missing one."""
        return len(self._waiting)

    @property
    def deadline(self) -> float | None:
        """When to call `tick`, in seconds of the caller's clock."""
        if self._waiting:
            return next(iter(self._waiting.values())).arrived + self.statistics.wait
        if self._due is None:
            return None
        return self._due + (STEP if self._padded else STARVED)

    def put(
        self,
        sequence: int,
        timestamp: int,
        payload: bytes,
        samples: int,
        now: float,
        source: int = 0,
    ) -> list[Heard]:
        """Take one packet; return what can be heard now, in order.

        `sequence` (16 bits), `timestamp` (32 bits) and `source` (SSRC) are its RTP
        header's; `samples` is the length of its audio in samples of the RTP clock.
        """
        statistics = self.statistics
        statistics.received += 1
        heard: list[Heard] = []
        if source != self._source:
            if source == self._left and now < self._left_until:
                statistics.late += 1
                return heard
            self._left, self._left_until = self._source, now + SOURCE_LEFT
            self._restart(sequence, now, heard)
            self._source = source
        ahead = _signed(sequence - self._next, 16)
        if not -MAX_MISORDER <= ahead <= MAX_DROPOUT:
            if sequence != self._suspect:
                self._suspect = (sequence + 1) & 0xFFFF
                statistics.discarded += 1
                return heard
            self._restart(sequence, now, heard)
            ahead = 0
        self._suspect = None
        number = self._next + ahead
        if ahead < 0:
            self._count_old(number, timestamp, now)
            return heard
        if number in self._waiting:
            statistics.duplicates += 1
            return heard
        self._measure(timestamp, now)
        if number < self._highest:
            statistics.reordered += 1
        self._highest = max(self._highest, number)
        packet = Packet(number, timestamp, payload, samples, now)
        if ahead:
            if not self._waiting:
                self._choose_wait()
            self._waiting[number] = packet
            if len(self._waiting) > CAPACITY:
                self._give_up(now, heard)
        else:
            self._hand_out(packet, now, heard)
            self._hand_out_next(now, heard)
        return heard

    def tick(self, now: float) -> list[Heard]:
        """Let time pass; return what can be heard now, in order."""
        heard: list[Heard] = []
        while self._waiting and self.deadline is not None and now >= self.deadline:
            self._give_up(now, heard)
        if not heard and self.deadline is not None and now >= self.deadline:
            assert self._due is not None
            samples = round(min(now - self._due, LONGEST_HOLE) * self.rate)
            self._padded += samples
            self._due = now
            heard.append(Silence(samples))
        return heard

    def _restart(self, sequence: int, now: float, heard: list[Heard]) -> None:
        """Hand out what waits and begin a new numbering."""
        while self._waiting:
            self._give_up(now, heard)
        if self._due is not None:
            self.statistics.restarts += 1
        self._begin(sequence)

    def _count_old(self, number: int, timestamp: int, now: float) -> None:
        """Count a packet whose turn is over."""
        if number in self._given_up:
            self._given_up.remove(number)
            self.statistics.late += 1
            self._measure(timestamp, now)
            self._choose_wait()
        elif number < self._first:
            self.statistics.late += 1  # overtaken by the very first
        else:
            self.statistics.duplicates += 1

    def _measure(self, timestamp: int, now: float) -> None:
        """Remember how long a packet was under way, up to a constant."""
        self._clock += _signed(timestamp - self._clock, 32)
        transit = now - self._clock / self.rate
        if self._transits and abs(transit - self._transits[-1]) > LONGEST_HOLE:
            self._transits.clear()  # the sender's clock has jumped
        self._transits.append(transit)

    def _choose_wait(self) -> None:
        """Wait for a missing packet as long as nearly all packets would need."""
        if len(self._transits) < ENOUGH:
            self.statistics.wait = FIRST_WAIT
            return
        transits = sorted(self._transits)
        spread = transits[int(COVERAGE * (len(transits) - 1))] - transits[0]
        self.statistics.wait = min(max(spread, MIN_WAIT), MAX_WAIT)

    def _give_up(self, now: float, heard: list[Heard]) -> None:
        """Go on without the packets that are missing before the next that waits."""
        self._hand_out(self._waiting.pop(min(self._waiting)), now, heard)
        self._hand_out_next(now, heard)

    def _hand_out_next(self, now: float, heard: list[Heard]) -> None:
        while self._next in self._waiting:
            self._hand_out(self._waiting.pop(self._next), now, heard)

    def _hand_out(self, packet: Packet, now: float, heard: list[Heard]) -> None:
        """Append one packet and, before it, what its timestamp says is missing."""
        missing = packet.sequence - self._next
        if self._end is not None:
            hole = _signed(packet.timestamp - self._end, 32) - self._padded
            if 0 < hole <= LONGEST_HOLE * self.rate:
                heard.append(Lost(hole) if missing else Silence(hole))
        if missing:
            self.statistics.lost += missing
            self._given_up.extend(range(max(self._next, packet.sequence - WINDOW), packet.sequence))
        heard.append(packet)
        self._next = packet.sequence + 1
        self._end = packet.timestamp + packet.samples
        self._due = now + packet.samples / self.rate
        self._padded = 0


def _signed(difference: int, bits: int) -> int:
    """Return a difference of counters of `bits` as the nearest signed number."""
    half = 1 << (bits - 1)
    return ((difference + half) & ((1 << bits) - 1)) - half
