"""Packets in any order go in, audio in order comes out."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.jitter import (
    CAPACITY,
    FIRST_WAIT,
    MAX_WAIT,
    MIN_WAIT,
    STARVED,
    Heard,
    JitterBuffer,
    Lost,
    Packet,
    Silence,
)

RATE = 48_000
PTIME = 0.02
SAMPLES = 960


class Sender:
    """Numbers packets as an RTP sender does; each says which it is."""

    def __init__(self, first: int = 100, timestamp: int = 5_000, samples: int = SAMPLES) -> None:
        self.first, self.timestamp, self.samples = first, timestamp, samples

    def put(
        self, jitter: JitterBuffer, index: int, now: float, *, skipped: int = 0, source: int = 1
    ) -> list[Heard]:
        """Deliver packet `index`; `skipped` samples of silence were not sent before it."""
        return jitter.put(
            (self.first + index) & 0xFFFF,
            (self.timestamp + index * self.samples + skipped) & 0xFFFFFFFF,
            b"%d" % index,
            self.samples,
            now,
            source,
        )


def indices(heard: list[Heard]) -> list[int]:
    """Which packets were heard."""
    return [int(item.payload) for item in heard if isinstance(item, Packet)]


def kinds(heard: list[Heard]) -> list[object]:
    """What was heard: the index of a packet, or a hole as it is."""
    return [int(item.payload) if isinstance(item, Packet) else item for item in heard]


def buffer_after(*order: int) -> tuple[JitterBuffer, Sender]:
    """A buffer to which packets of these indices came, 20 ms apart from 0 s."""
    jitter, sender = JitterBuffer(RATE), Sender()
    for now, index in enumerate(order):
        sender.put(jitter, index, now * PTIME)
    return jitter, sender


def test_a_packet_in_order_is_heard_at_once() -> None:
    jitter, sender = JitterBuffer(RATE), Sender()
    for index in range(50):
        assert indices(sender.put(jitter, index, index * PTIME)) == [index]
    assert jitter.waiting == 0


def test_jitter_without_reordering_adds_no_delay() -> None:
    jitter, sender, now = JitterBuffer(RATE), Sender(), 0.0
    for index in range(500):
        now = max(now, index * PTIME + random.Random(index).uniform(0, 0.08))
        assert indices(sender.put(jitter, index, now)) == [index]


def test_an_overtaken_packet_is_waited_for() -> None:
    jitter, sender = buffer_after(0)
    assert sender.put(jitter, 2, 0.040) == []
    assert jitter.deadline == 0.040 + FIRST_WAIT
    assert indices(sender.put(jitter, 1, 0.045)) == [1, 2]
    assert jitter.statistics.reordered == 1
    assert jitter.statistics.lost == 0


def test_a_lost_packet_is_given_up_at_the_deadline() -> None:
    jitter, sender = buffer_after(0)
    sender.put(jitter, 2, 0.040)
    sender.put(jitter, 3, 0.060)
    assert jitter.tick(0.079) == []
    assert kinds(jitter.tick(0.080)) == [Lost(SAMPLES), 2, 3]
    assert jitter.statistics.lost == 1
    assert jitter.waiting == 0


def test_a_loss_leaves_no_delay_behind() -> None:
    jitter, sender = buffer_after(0, 2, 3)
    jitter.tick(1.0)
    assert indices(sender.put(jitter, 4, 1.0)) == [4]


def test_two_gaps_have_a_deadline_each() -> None:
    jitter, sender = buffer_after(0)
    sender.put(jitter, 2, 0.040)
    sender.put(jitter, 4, 0.070)
    assert kinds(jitter.tick(0.080)) == [Lost(SAMPLES), 2]
    assert jitter.deadline == 0.070 + FIRST_WAIT
    assert kinds(jitter.tick(0.111)) == [Lost(SAMPLES), 4]


def test_a_packet_after_its_turn_is_late_and_its_copy_a_duplicate() -> None:
    jitter, sender = buffer_after(0, 2)
    jitter.tick(0.1)
    assert sender.put(jitter, 1, 0.11) == []
    assert sender.put(jitter, 1, 0.12) == []
    assert (jitter.statistics.late, jitter.statistics.duplicates) == (1, 1)


def test_a_packet_overtaken_by_the_very_first_is_late() -> None:
    jitter, sender = buffer_after(1)
    assert sender.put(jitter, 0, 0.001) == []
    assert jitter.statistics.late == 1


@pytest.mark.parametrize("copy", [0, 2], ids=["heard before", "still waiting"])
def test_a_duplicate_is_dropped(copy: int) -> None:
    jitter, sender = buffer_after(0, 2)
    assert sender.put(jitter, copy, 0.021) == []
    assert jitter.statistics.duplicates == 1
    assert jitter.waiting == 1


def test_the_wait_is_short_where_packets_are_punctual() -> None:
    jitter, sender = buffer_after(*range(100))
    sender.put(jitter, 101, 101 * PTIME)
    assert jitter.statistics.wait == MIN_WAIT


def test_the_wait_grows_with_the_measured_jitter() -> None:
    jitter, sender, waits = JitterBuffer(RATE), Sender(), []
    for spread in (0.03, 0.07, 0.5):
        noise = random.Random(1)
        base = jitter.statistics.received
        arrivals = sorted(
            (index * PTIME + noise.uniform(0, spread), index) for index in range(base, base + 300)
        )
        for now, index in arrivals:
            while jitter.deadline is not None and jitter.deadline <= now:
                jitter.tick(jitter.deadline)
            sender.put(jitter, index, now)
        waits.append(jitter.statistics.wait)
    assert 0.02 <= waits[0] <= 0.035
    assert 0.06 <= waits[1] <= 0.075
    assert waits[2] == MAX_WAIT


def test_late_packets_teach_the_buffer_to_wait_longer() -> None:
    jitter, sender = buffer_after(*range(100))
    late = []
    for round_ in range(40):
        base, start = 100 + 5 * round_, (100 + 5 * round_) * PTIME
        for index in (0, 2, 3, 4):
            sender.put(jitter, base + index, start + index * PTIME)
            while jitter.deadline is not None and jitter.deadline < start + (index + 1) * PTIME:
                jitter.tick(jitter.deadline)
        before = jitter.statistics.late
        sender.put(jitter, base + 1, start + 4.5 * PTIME)  # 70 ms after its time
        late.append(jitter.statistics.late - before)
    assert late[0] == 1
    assert late[-10:] == [0] * 10


def test_sequence_and_timestamp_wrap() -> None:
    jitter, sender = JitterBuffer(RATE), Sender(first=65_530, timestamp=2**32 - 3 * SAMPLES)
    order = [0, 1, 3, 2, 4, 5, 7, 6, 8, 9, 10]
    heard = [item for now, i in enumerate(order) for item in sender.put(jitter, i, now * PTIME)]
    assert kinds(heard) == list(range(11))


def test_a_gap_across_the_wrap_is_lost() -> None:
    jitter, sender = JitterBuffer(RATE), Sender(first=65_535, timestamp=2**32 - SAMPLES)
    sender.put(jitter, 0, 0.0)
    sender.put(jitter, 2, 0.04)
    assert kinds(jitter.tick(1.0)) == [Lost(SAMPLES), 2]


def test_a_new_source_begins_anew_and_what_waited_is_heard() -> None:
    jitter, _ = buffer_after(0, 2)
    other = Sender(first=40_000, timestamp=77)
    assert kinds(other.put(jitter, 5, 0.05, source=2)) == [Lost(SAMPLES), 2, 5]
    assert jitter.statistics.restarts == 1


def test_stragglers_of_the_source_before_are_late() -> None:
    jitter, sender = buffer_after(0)
    other = Sender(first=40_000, timestamp=77)
    other.put(jitter, 0, 0.02, source=2)
    assert sender.put(jitter, 1, 0.021) == []
    assert indices(other.put(jitter, 1, 0.04, source=2)) == [1]
    assert (jitter.statistics.late, jitter.statistics.restarts) == (1, 1)


def test_the_source_before_may_come_back() -> None:
    jitter, sender = buffer_after(0)
    Sender(first=40_000).put(jitter, 0, 0.02, source=2)
    assert indices(sender.put(jitter, 1, 5.0)) == [1]


@pytest.mark.parametrize("first", [100 + 10_000, 100 - 5_000])
def test_a_new_numbering_is_believed_at_the_second_packet(first: int) -> None:
    jitter, _ = buffer_after(0, 1, 2)
    other = Sender(first=first & 0xFFFF, timestamp=99)
    assert other.put(jitter, 0, 0.06) == []
    assert indices(other.put(jitter, 1, 0.08)) == [1]
    assert indices(other.put(jitter, 2, 0.10)) == [2]
    assert (jitter.statistics.discarded, jitter.statistics.restarts) == (1, 1)


def test_one_stray_sequence_number_changes_nothing() -> None:
    jitter, sender = buffer_after(0, 1)
    assert Sender(first=30_000).put(jitter, 0, 0.03) == []
    assert indices(sender.put(jitter, 2, 0.04)) == [2]
    assert jitter.statistics.restarts == 0


def test_a_jump_of_the_timestamp_alone_is_no_hole() -> None:
    jitter, sender = buffer_after(0, 1)
    assert kinds(sender.put(jitter, 2, 0.04, skipped=10**9)) == [2]
    assert kinds(sender.put(jitter, 3, 0.06, skipped=10**9)) == [3]


def test_a_jump_of_the_timestamp_is_not_mistaken_for_jitter() -> None:
    jitter, sender = buffer_after(*range(100))
    for index in range(100, 120):
        sender.put(jitter, index, index * PTIME, skipped=10**9)
    sender.put(jitter, 121, 121 * PTIME, skipped=10**9)
    assert jitter.statistics.wait == MIN_WAIT


def test_a_short_pause_of_the_sender_is_silence() -> None:
    jitter, sender = buffer_after(0)
    assert kinds(sender.put(jitter, 1, 0.12, skipped=4 * SAMPLES)) == [Silence(4 * SAMPLES), 1]


def test_a_silent_sender_is_heard_as_silence_in_time() -> None:
    jitter, sender = buffer_after(0)
    due = PTIME + STARVED
    assert jitter.deadline == due
    assert jitter.tick(due - 0.001) == []
    assert jitter.tick(due) == [Silence(round(STARVED * RATE))]
    assert jitter.tick(due + 0.02) == [Silence(960)]
    heard = sender.put(jitter, 1, 0.28, skipped=round(0.26 * RATE))
    assert kinds(heard) == [Silence(round(0.04 * RATE)), 1]


def test_a_stall_is_bridged_and_its_audio_still_heard() -> None:
    jitter, sender = buffer_after(0)
    jitter.tick(0.5)
    assert [indices(sender.put(jitter, index, 0.6)) for index in (1, 2, 3)] == [[1], [2], [3]]


def test_an_outage_is_filled_once() -> None:
    jitter, sender = buffer_after(0)
    filled = 0
    for step in range(1, 51):
        filled += sum(item.samples for item in jitter.tick(0.02 + step * 0.02))
    sender.put(jitter, 51, 1.02)
    heard = jitter.tick(2.0)
    assert kinds(heard)[-1] == 51
    total = filled + sum(item.samples for item in heard if not isinstance(item, Packet))
    assert total == 50 * SAMPLES


@pytest.mark.parametrize("ppm", [300, -300])
def test_a_drifting_clock_changes_no_delay_and_no_sample(ppm: int) -> None:
    jitter, sender = JitterBuffer(RATE), Sender()
    heard = 0
    for index in range(30_000):  # 10 minutes
        now = index * PTIME * (1 + ppm * 1e-6)
        assert jitter.tick(now) == []
        items = sender.put(jitter, index, now)
        assert kinds(items) == [index]
        heard += SAMPLES
    assert heard == 600 * RATE
    sender.put(jitter, 30_001, 30_001 * PTIME * (1 + ppm * 1e-6))
    assert jitter.statistics.wait == MIN_WAIT


@pytest.mark.parametrize("milliseconds", [10, 20, 30, 40, 60])
def test_any_packet_length_is_heard_whole(milliseconds: int) -> None:
    samples = 8 * milliseconds
    jitter, sender = JitterBuffer(8000), Sender(samples=samples)
    heard = []
    for index in (0, 1, 3, 4, 5):
        now = index * milliseconds / 1000
        heard += jitter.tick(now)
        heard += sender.put(jitter, index, now)
    heard += jitter.tick(now + MAX_WAIT)
    assert kinds(heard) == [0, 1, Lost(samples), 3, 4, 5]


def test_what_waits_is_bounded() -> None:
    jitter, sender = buffer_after(0)
    for index in range(2, 2_000, 2):
        sender.put(jitter, index, 0.02)
        assert jitter.waiting <= CAPACITY


Step = tuple[int, int, float]
steps = st.lists(
    st.tuples(
        st.one_of(
            st.integers(0, 40),
            st.integers(0, 40),
            st.integers(0, 65_535),
        ),
        st.integers(0, 5_000),
        st.floats(0, 0.3),
    ),
    max_size=120,
)


@settings(deadline=None)
@given(steps, st.integers(0, 65_535), st.integers(0, 2**32 - 1))
def test_whatever_arrives_each_packet_is_heard_once_in_order(
    arrivals: list[Step], first: int, timestamp: int
) -> None:
    jitter, sender, now = JitterBuffer(RATE), Sender(first, timestamp), 0.0
    numbers: list[int] = []
    restarts = 0

    def hear(heard: list[Heard]) -> None:
        nonlocal restarts
        for item in heard:
            if isinstance(item, Packet):
                numbers.append(item.sequence)
            else:
                assert 0 < item.samples <= RATE

    for index, skipped, pause in arrivals:
        now += pause
        hear(jitter.tick(now))
        hear(sender.put(jitter, index, now, skipped=skipped))
        if jitter.statistics.restarts > restarts:
            restarts = jitter.statistics.restarts
            numbers = numbers[-1:]  # the new numbering
        assert numbers == sorted(set(numbers))
        assert jitter.waiting <= CAPACITY
        if jitter.waiting:
            assert jitter.deadline is not None
            assert jitter.deadline <= now + MAX_WAIT
    hear(jitter.tick(now + MAX_WAIT))
    assert jitter.waiting == 0


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 0.1), st.booleans()), min_size=1, max_size=150),
    st.integers(0, 65_535),
)
def test_on_any_network_the_timeline_is_kept_and_every_packet_accounted_for(
    network: list[tuple[bool, float, bool]], first: int
) -> None:
    """Each packet: does it arrive, after how long, does it come twice."""
    jitter, sender = JitterBuffer(RATE), Sender(first)
    arrivals = []
    for index, (arrives, delay, twice) in enumerate(network):
        if arrives:
            arrivals += [(index * PTIME + delay, index)] * (1 + twice)
    arrivals.sort()
    heard: list[Heard] = []
    for now, index in arrivals:
        heard += jitter.tick(now)
        heard += sender.put(jitter, index, now)
    heard += jitter.tick(arrivals[-1][0] + MAX_WAIT) if arrivals else []
    packets = indices(heard)
    assert packets == sorted(set(packets))
    statistics = jitter.statistics
    assert statistics.received == len(arrivals)
    assert statistics.received == len(packets) + statistics.late + statistics.duplicates
    if packets:
        assert statistics.lost == packets[-1] - packets[0] + 1 - len(packets)
        filled = sum(item.samples for item in heard if not isinstance(item, Packet))
        if not any(isinstance(item, Silence) for item in heard) and statistics.lost < 40:
            assert filled == statistics.lost * SAMPLES
