"""Calls on one device, event by event, in the order that `voice.schedule` says.

Nothing here takes time: a run of a minute with 64 calls is a second of work, and the same
every time. The callers speak, pause, fall silent and listen; ears and voice are engines that
share the device, as in an engine process (one thread each, whatever is queued goes together,
the most urgent first); the language model works beside them in a process of its own, with
continuous batching, and reserves the device for its first tokens.

What each piece of work takes is read from `service_times.json`; see there for its source.
"""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from pathlib import Path

from voice.schedule import Job, Schedule

TIMES = json.loads((Path(__file__).parent / "service_times.json").read_text())

PARTIAL = 0.5
"""Seconds between two partial recognitions of somebody who speaks."""

CHUNK = 0.4
"""Seconds of audio in a chunk of the voice."""

PHRASE = 4
"""Chunks in a phrase."""

FIRST_PHRASE = 10
"""Tokens until the first phrase is whole."""

AHEAD = 3.0
"""Seconds of a reply that are made before they are heard, at most."""

SILENCE = 0.06
"""Seconds after the last sound at which silence is seen."""

SHARED = 1.5
"""Factor on work that begins while the device does other work, the language model's or another
slot's. An assumption: they take turns at it."""

Later = Callable[[float], None]


def seconds(stage: str, work: str, size: int) -> float:
    """Return what a batch of `size` takes, by a straight line between the sizes recorded."""
    table: Mapping[str, float] = TIMES[stage][work]
    scale: float = TIMES["scale"][stage]
    known = sorted((int(number), value) for number, value in table.items())
    low, below = 0, 0.0
    for high, above in known:
        if size <= high:
            return scale * (below + (above - below) * (size - low) / (high - low))
        low, below = high, above
    return scale * below * size / low


@dataclass(slots=True, eq=False)
class Work:
    """Something to do for one call.

    Attributes:
        then: Told when it is done.
        dropped: Whether nobody wants it any more.
    """

    kind: str
    deadline: float
    asked: float
    then: Later
    began: float | None = None
    dropped: bool = False


class Fifo(Schedule):
    """What happens where nobody decides: whoever came first is first, and nothing is reserved."""

    def _urgency(self, job: Job) -> tuple[float, int]:
        return 0.0, job.number

    def reserve(self, name: object, deadline: float, cost: float, now: float) -> None:
        """Nobody asks."""


@dataclass
class Simulation:
    """Calls on one device.

    Attributes:
        schedule: Decides.
        by_deadline: Whether engines take the most urgent of their queues first, or the oldest.
        waits: Seconds that work waited until it began, by kind.
        answers: Seconds from decisions to the first sound.
        gaps: Seconds of silence inside replies.
        left: Pairs of kinds (most urgent of what began, left waiting), and how often.
        inversions: Those of them where what was left was more urgent than all that began.
        partials: Partial recognitions that were asked for.
        superseded: Those of them that newer work took the place of.
    """

    schedule: Schedule
    by_deadline: bool = True
    waits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    answers: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    left: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    inversions: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    partials: int = 0
    superseded: int = 0
    busy: float = 0.0
    now: float = 0.0

    def __post_init__(self) -> None:
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self.ears = Engine(self, "ears", most=16)
        self.voice = Engine(self, "voice", most=2)
        self.mind = Mind(self)
        self._look_at = 0.0

    def run(self, calls: int, until: float) -> "Simulation":
        """Hold `calls` calls for `until` seconds."""
        for number in range(calls):
            Call(self, random.Random(number))
        while self._events and self._events[0][0] <= until:
            self.now, _, happen = heappop(self._events)
            happen()
        return self

    def at(self, when: float, happen: Callable[[], None]) -> None:
        """Let something happen at `when`."""
        heappush(self._events, (max(when, self.now), next(self._numbers), happen))

    def choose(self) -> None:
        """Let all begin that may, as `voice.device.Device` does."""
        engines = {engine.job: engine for engine in (self.ears, self.voice) if engine.job}
        for job, engine in engines.items():
            if job.began is None:
                job.deadline = engine.due()
        while (begun := self.schedule.next(self.now)) is not None:
            engines[begun].begin()
        again = self.schedule.look_again(self.now)
        if again is not None and again != self._look_at:
            self._look_at = again
            self.at(again, self.choose)

    def p95(self, kind: str) -> float:
        """Return the wait that 95 % of this kind's work stays under, in seconds."""
        return p95(self.waits[kind])


def p95(values: list[float]) -> float:
    """Return what 95 % of `values` stay under."""
    return sorted(values)[int(len(values) * 0.95)]


class Engine:
    """An engine with one thread on the device: whatever is queued goes together."""

    def __init__(self, sim: Simulation, name: str, most: int) -> None:
        self._sim, self._name, self._most = sim, name, most
        self.queue: list[Work] = []
        self.job: Job | None = None

    def put(self, kind: str, deadline: float, then: Later) -> Work:
        """Queue some work."""
        work = Work(kind, deadline, self._sim.now, then)
        self.queue.append(work)
        self._ask()
        return work

    def due(self) -> float:
        """Return when the most urgent of the queue is due."""
        wanted = (work.deadline for work in self.queue if not work.dropped)
        return min(wanted, default=float("inf"))

    def begin(self) -> None:
        """Do the next batch; the device is ours."""
        sim, job = self._sim, self.job
        assert job is not None
        self.queue = [work for work in self.queue if not work.dropped]
        order = sorted(
            self.queue, key=lambda work: work.deadline if sim.by_deadline else work.asked
        )
        batch, self.queue = order[: self._most], order[self._most :]
        self._audit(batch)
        for work in batch:
            work.began = sim.now
            sim.waits[work.kind].append(sim.now - work.asked)
        took = self._seconds(batch) * (SHARED if len(sim.schedule.running) > 1 else 1.0)
        sim.busy += took
        sim.at(sim.now + took, lambda: self._end(job, batch))

    def _audit(self, batch: list[Work]) -> None:
        """Count what waits though it is more urgent than all that begins."""
        sim = self._sim
        if not batch:
            return
        first = min(batch, key=lambda work: work.deadline)
        for engine in (sim.ears, sim.voice):
            if engine is not self and engine.job is not None and engine.job.began is not None:
                continue  # with several slots: its thread is at work beside this one
            waiting = [work for work in engine.queue if not work.dropped]
            for kind in {work.kind for work in waiting}:
                sim.left[first.kind, kind] += 1
            for kind in {work.kind for work in waiting if work.deadline < first.deadline}:
                sim.inversions[first.kind, kind] += 1

    def _seconds(self, batch: list[Work]) -> float:
        if self._name == "ears":
            encode = len(batch) * seconds("whisper", "encode", 1)
            return encode + seconds("whisper", "decode", len(batch)) if batch else 0.0
        firsts = sum(work.kind.endswith("phrase") for work in batch)
        text = seconds("vits", "text", firsts) if firsts else 0.0
        return text + seconds("vits", "chunk", len(batch)) if batch else 0.0

    def _ask(self) -> None:
        if self.job is None and self.queue:
            kind = min(self.queue, key=lambda work: work.deadline).kind
            self.job = self._sim.schedule.ask(kind, self.due(), 0.0, self._sim.now)
        self._sim.choose()

    def _end(self, job: Job, batch: list[Work]) -> None:
        self._sim.schedule.done(job, self._sim.now)
        self.job = None
        for work in batch:
            if not work.dropped:
                work.then(self._sim.now)
        self._ask()


@dataclass(slots=True, eq=False)
class Answer:
    """One generation: a prompt to read, then tokens."""

    deadline: float
    asked: float
    kind: str
    prompt: int
    tokens: int
    token: Callable[[int], None]
    written: int = 0
    dropped: bool = False


class Mind:
    """A language model with continuous batching in a process of its own."""

    BUDGET = 512
    """Tokens of prompts that one step reads, at most."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._waiting: list[Answer] = []
        self._running: list[Answer] = []
        self._steps = False
        self._cost = 0.0

    def ask(self, answer: Answer) -> None:
        """Begin an answer."""
        sim = self._sim
        sim.schedule.reserve(answer, answer.deadline, self._cost, sim.now)
        self._waiting.append(answer)
        if not self._steps:
            self._step()

    def drop(self, answer: Answer) -> None:
        """Stop an answer."""
        answer.dropped = True
        self._sim.schedule.release(answer)

    def _step(self) -> None:
        """Begin a step: prompts in the order of their deadlines, and a token for all others."""
        sim = self._sim
        self._waiting = [answer for answer in self._waiting if not answer.dropped]
        self._running = [answer for answer in self._running if not answer.dropped]
        self._waiting.sort(key=lambda a: a.deadline if sim.by_deadline else a.asked)
        budget, read = self.BUDGET, list[Answer]()
        while self._waiting and self._waiting[0].prompt <= budget:
            read.append(self._waiting.pop(0))
            budget -= read[-1].prompt
        for answer in read:
            sim.waits[answer.kind].append(sim.now - answer.asked)
        self._running += read
        self._steps = bool(self._running)
        if not self._steps:
            return
        took = seconds("llm", "step", len(self._running))
        took += seconds("llm", "prompt", sum(answer.prompt for answer in read))
        took *= SHARED if sim.schedule.running else 1.0
        sim.at(sim.now + took, self._stepped)

    def _stepped(self) -> None:
        sim = self._sim
        for answer in list(self._running):
            if answer.dropped:
                continue
            answer.written += 1
            if answer.written == 1:
                sim.schedule.release(answer)
                took = sim.now - answer.asked
                self._cost += 0.2 * (took - self._cost)
                sim.waits[answer.kind.replace("prompt", "token")].append(took)
            answer.token(answer.written)
            if answer.written == answer.tokens:
                self._running.remove(answer)
        sim.choose()
        self._step()


class Call:
    """One caller and what the server does for them; see `voice.session`."""

    def __init__(self, sim: Simulation, chance: random.Random) -> None:
        self._sim, self._chance = sim, chance
        self._partial: Work | None = None
        self._attempt: Attempt | None = None
        self._turn = 0
        sim.at(chance.uniform(0, 8), lambda: self._speak(new=True))

    def _speak(self, *, new: bool) -> None:
        sim, chance = self._sim, self._chance
        self._turn += 1
        if self._attempt is not None:  # they go on: what was made of the words so far is dropped
            self._attempt.drop()
            self._attempt = None
        ends = sim.now + chance.uniform(1.2, 4.0) * (1 if new else 0.5)
        self._hear(self._turn, ends)
        sim.at(ends + SILENCE, lambda: self._fell_silent(ends))

    def _hear(self, turn: int, ends: float) -> None:
        """Have what was said so far recognised, every half second; newer takes older's place."""
        sim = self._sim
        if turn != self._turn or sim.now >= ends:
            return
        self._supersede()
        sim.partials += 1
        self._partial = sim.ears.put("partial", sim.now + PARTIAL, lambda now: None)
        sim.at(sim.now + PARTIAL, lambda: self._hear(turn, ends))

    def _supersede(self) -> None:
        """Let go of a partial that was not begun: what comes next covers its sound, too."""
        waiting, self._partial = self._partial, None
        if waiting is not None and waiting.began is None:
            waiting.dropped = True
            self._sim.superseded += 1

    def _fell_silent(self, ended: float) -> None:
        sim, chance = self._sim, self._chance
        self._supersede()
        wait = chance.uniform(0.2, 0.6)
        pauses = chance.random() < 0.3
        if chance.random() < 0.8:
            self._attempt = Attempt(sim, chance, ended + wait, early=True)
        if pauses:
            sim.at(ended + wait * chance.uniform(0.5, 0.9), lambda: self._speak(new=False))
        else:
            sim.at(ended + wait, self._decide)

    def _decide(self) -> None:
        sim = self._sim
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            attempt = Attempt(sim, self._chance, sim.now, early=False)
        attempt.decide(self._heard_out)

    def _heard_out(self, at: float) -> None:
        self._sim.at(at + self._chance.uniform(0.4, 1.5), lambda: self._speak(new=True))


class Attempt:
    """One answer, from the words to the last of its sound."""

    def __init__(
        self, sim: Simulation, chance: random.Random, decided: float, *, early: bool
    ) -> None:
        self._sim, self._chance = sim, chance
        self._deadline, self._decided = decided, not early
        self._early = "early " if early else ""
        self._chunks = chance.randint(6, 16)
        self._made = 0
        self._texts = 0
        self._tokens = self._chunks * 2 + FIRST_PHRASE
        self._busy = self._dropped = False
        self._answer: Answer | None = None
        self._begins: float | None = None
        self._over: Later = lambda _: None
        kind = "settle" if early else "final"
        self._work = sim.ears.put(kind, decided, self._think)

    def drop(self) -> None:
        """Stop all work on it."""
        self._dropped = self._work.dropped = True
        if self._answer is not None:
            self._sim.mind.drop(self._answer)

    def decide(self, over: Later) -> None:
        """Let it be heard; `over` is told when it has been."""
        self._decided, self._over, self._deadline = True, over, self._sim.now
        if self._made:
            self._begins = self._sim.now
            self._sim.answers.append(0.0)
        self._speak()

    def _think(self, now: float) -> None:
        prompt = self._chance.randint(20, 60)  # the rest is in the prefix cache
        kind = f"{self._early}prompt"
        self._answer = Answer(self._deadline, now, kind, prompt, self._tokens, token=self._written)
        self._sim.mind.ask(self._answer)

    def _written(self, number: int) -> None:
        if number >= FIRST_PHRASE:
            self._texts = PHRASE + (number - FIRST_PHRASE) // (2 * PHRASE) * PHRASE
            if number == self._tokens:
                self._texts = self._chunks
            self._speak()

    def _speak(self) -> None:
        """Ask for the next chunk, if its text is there and its turn has come."""
        sim, first = self._sim, self._made == 0
        ready = min(self._texts, self._chunks if self._decided else PHRASE)
        if self._dropped or self._busy or self._made >= ready:
            return
        ahead = self._dry() - sim.now
        if not first and ahead > AHEAD:
            sim.at(sim.now + ahead - AHEAD, self._speak)
            return
        self._busy = True
        kind = f"{'' if self._decided else self._early}phrase" if first else "chunk"
        self._work = sim.voice.put(kind, self._dry(), self._spoken)

    def _dry(self) -> float:
        """Return when the caller has heard all that was made."""
        begins = self._deadline if self._begins is None else self._begins
        return begins + self._made * CHUNK

    def _spoken(self, now: float) -> None:
        self._busy = False
        if self._dropped:
            return
        if self._made and self._begins is not None and now > self._dry():
            self._sim.gaps.append(now - self._dry())
            self._begins += now - self._dry()
        self._made += 1
        if self._made == 1 and self._decided:
            self._begins = now
            self._sim.answers.append(now - self._deadline)
        if self._made == self._chunks:
            self._over(self._dry())
        self._speak()


def main() -> None:
    """Print what 64 calls and more wait for, in each order."""
    kinds = ("final", "token", "phrase", "settle", "early phrase", "partial")
    print("| calls | order |", " | ".join(kinds), "| decision → sound | voice ran dry |")
    print("|---" * (len(kinds) + 4) + "|")
    for calls in (64, 84):
        for name, schedule in (
            ("first come", Fifo()),
            ("by deadline", Schedule()),
            ("by deadline, 2 slots", Schedule(slots=2)),
        ):
            ours = Simulation(schedule, by_deadline=name != "first come").run(calls, 60.0)
            times = [f"{1000 * ours.p95(kind):.0f}" for kind in kinds]
            answers = f"{1000 * p95(ours.answers):.0f}"
            print(f"| {calls} | {name} |", " | ".join([*times, answers, str(len(ours.gaps))]), "|")


if __name__ == "__main__":
    main()
