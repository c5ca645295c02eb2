"""A server in a model, for the loop to steer: calls, turns and what every setting does to them.

Nothing here takes time, and a seed gives the same run every time. A turn has the structure that
`voice.session` gives it: silence is seen one window after the caller's last sample, the answer
is begun then or `speculation_lead` before the decision, whichever is later, its stages follow
one another, and what is not done by the decision is what the caller waits for in addition. The
engines are slower the busier they are. The tuner sees turns and guard rails, nothing else.

`best` tries every combination of settings, so that a test can ask for what is possible and for
no more. Run: python -m tests.plant
"""

import itertools
import math
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from latency.budget import Budget, Floors, derived
from latency.trace import percentile
from latency.tuner import Knob, Move, Tuner

LIMITS = {"cut_ins": 0.05, "underruns": 0.03, "wasted": 0.5, "misses": 0.05}

ANSWER = ("asr", "llm", "first_phrase", "tts")

KNOBS = (
    Knob("turn.longest_wait", ("endpoint",), (1.5, 0.8, 0.5, 0.4, 0.3), 2, ("cut_ins",)),
    Knob("turn.shortest_wait", ("endpoint",), (0.5, 0.3, 0.2, 0.15, 0.1), 2, ("cut_ins",)),
    Knob("turn.speculation_lead", ANSWER, (0.05, 0.1, 0.3, 0.8), 1, ("wasted",)),
    Knob("turn.speculations", ANSWER, (0, 2, 8), 1, ("wasted",)),
    Knob("whisper.interval", ("asr",), (1.0, 0.5, 0.25), 1),
    Knob("whisper.beam", ("asr",), (5, 1), 0, ("misses",)),
    Knob("whisper.window", ("asr",), (30.0, 15.0, 5.0), 0, ("misses",)),
    Knob("llm.batch", ("llm",), (0.02, 0.0), 0),
    Knob("phrases.first", ("first_phrase",), (48, 24, 12, 8), 1, ("underruns",)),
    Knob("phrases.later", ("tts",), (220, 80), 0),
    Knob("tts.batch", ("tts",), (0.02, 0.0), 0),
    Knob("max_calls", ("asr", "llm", "tts"), (100, 15, 10), 0, settle=90.0),
)

START = {knob.name: knob.values[knob.start] for knob in KNOBS}

Settings = Mapping[str, float]
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class World:
    """What the tuner does not know. Times in seconds.

    Attributes:
        calls: Callers who ring.
        asr: Until the final words, of an idle device.
        llm: Until the first token, likewise.
        token: For each further one.
        tts: Until the first sound, likewise.
        jitter: That the packets have.
        pause: Length of a pause that every turn has; 0 for the usual ones, of one turn in four.
        noise: Spread of ln(time) of every stage.
        wrong: A knob that makes turns slower by 60 ms a step, where it should make them faster.
    """

    calls: int = 10
    asr: float = 0.05
    llm: float = 0.05
    token: float = 0.01
    tts: float = 0.05
    jitter: float = 0.0
    pause: float = 0.0
    noise: float = 0.1
    wrong: str = ""


NORMAL = World()

DISTURBANCES: Mapping[str, World] = {
    "LLM first token +250 ms": World(llm=0.3),
    "TTS first sound +200 ms": World(tts=0.25),
    "ASR final +200 ms": World(asr=0.25),
    "callers pause for 700 ms": World(pause=0.7),
    "packet jitter 60 ms": World(jitter=0.06),
    "twice the calls": World(calls=20),
}


@dataclass(slots=True)
class Draws:
    """The chance in one turn, or in many: numbers from 0 to 1, or normal ones."""

    framing: Array
    jitter: Array
    window: Array
    sure: Array
    between: Array
    asr: Array
    llm: Array
    phrase: Array
    tts: Array
    rare: Array


def draw(chance: random.Random, count: int) -> Draws:
    """Draw the chance of `count` turns."""
    uniform = lambda: np.array([chance.random() for _ in range(count)])  # noqa: E731
    normal = lambda: np.array([chance.gauss(0, 1) for _ in range(count)])  # noqa: E731
    return Draws(
        uniform(), uniform(), uniform(), uniform(), uniform(),
        normal(), normal(), normal(), normal(), uniform(),
    )  # fmt: skip


@dataclass(slots=True)
class Outcome:
    """What became of turns.

    Attributes:
        stages: Seconds by stage.
        total: Their sum.
        chain: Seconds that engines worked until the first sound.
        dry: Whether the first phrase was over before the second was there.
        heard: When, after the last sample, an answer was begun.
    """

    stages: dict[str, Array]
    total: Array
    chain: Array
    dry: Array
    begun: Array


def busy(of: Mapping[str, Array], world: World, calls: float) -> Array:
    """Return the factor on the engines' times."""
    partials = 0.045 / of["whisper.interval"] * np.where(of["whisper.beam"] > 1, 1.0, 0.7)
    batches = 0.1 * (1 - 8 * of["llm.batch"]) + 0.1 * (1 - 8 * of["tts.batch"])
    guesses = 0.03 * np.minimum(of["turn.speculations"], 2 if world.pause else 1)
    load = np.minimum(calls * (partials + batches + guesses) / 8, 0.95)
    return 1 / (1 - load**2)  # type: ignore[no-any-return]


def turns(of: Mapping[str, Array], world: World, calls: float, chance: Draws) -> Outcome:
    """Return what turns are like under settings; arrays of both must broadcast."""
    factor = busy(of, world, calls)
    slow = np.where(chance.rare < 0.02, 1.5, 1.0)  # one turn in fifty meets something
    spread = world.noise
    ears = np.where(of["whisper.beam"] > 1, 1.0, 0.6) * (0.4 + 0.02 * of["whisper.window"])
    asr = world.asr * ears * (0.6 + 0.8 * of["whisper.interval"]) * factor
    asr = asr * np.exp(spread * chance.asr) * slow
    llm = of["llm.batch"] + world.llm * factor * np.exp(spread * chance.llm) * slow
    phrase = of["phrases.first"] / 2.4 * world.token * factor * np.exp(spread * chance.phrase)
    tts = of["tts.batch"] + world.tts * factor * np.exp(spread * chance.tts) * (
        0.9 + 0.1 * of["phrases.later"] / 220
    )
    if world.wrong:
        knob = next(knob for knob in KNOBS if knob.name == world.wrong)
        steps = np.searchsorted(-np.array(knob.values), -of[world.wrong]) - knob.start
        asr, tts = (asr, tts + 0.06 * steps) if "tts" in knob.stages else (asr + 0.06 * steps, tts)
    seen = 0.06 + 0.03 * chance.window
    least = of["turn.shortest_wait"]
    most = np.maximum(of["turn.longest_wait"], least)
    wait = np.where(chance.sure < 0.7, least, least + (most - least) * chance.between)
    decided = np.maximum(wait, seen)
    begun = np.maximum(seen, wait - of["turn.speculation_lead"])
    attempts = 2 if world.pause else 1
    begun = np.where(of["turn.speculations"] >= attempts, begun, decided)
    stages = {
        "framing": 0.02 * chance.framing + 0 * begun,
        "jitter": world.jitter * (1 + 0.3 * chance.jitter) + 0 * begun,
        "vad": seen + 0 * begun,
        "endpoint": decided - seen,
    }
    at = begun
    for name, seconds in (("asr", asr), ("llm", llm), ("first_phrase", phrase), ("tts", tts)):
        stages[name] = np.maximum(0.0, at + seconds - np.maximum(at, decided))
        at = at + seconds
    stages["send"] = 0.003 + 0 * begun
    second = of["phrases.later"] / 4 * world.token * factor + tts
    dry = second > of["phrases.first"] / 12 + 0.1
    total = sum(stages.values(), start=np.zeros(()))
    return Outcome(stages, total, asr + llm + phrase + tts, dry, begun)


def paused(world: World, chance: random.Random) -> float:
    """Return the length of a pause inside a turn, 0 for none."""
    if world.pause:
        return world.pause * chance.uniform(0.9, 1.1)
    return chance.lognormvariate(np.log(0.22), 0.4) if chance.random() < 0.25 else 0.0


def awaited(of: Settings, chance: random.Random) -> float:
    """Return how long one is waited for who pauses: nearly always it is clear that they go on."""
    least, most = of["turn.shortest_wait"], max(of["turn.shortest_wait"], of["turn.longest_wait"])
    return most if chance.random() < 0.95 else least + (most - least) * chance.random()


def misses(of: Mapping[str, float]) -> float:
    """Return the share of turns that are not understood."""
    return (
        0.01
        + (0.01 if of["whisper.beam"] == 1 else 0.0)
        + {30.0: 0.0, 15.0: 0.005, 5.0: 0.12}[of["whisper.window"]]
    )


@dataclass(slots=True)
class Turn:
    """One turn as it went: when it began, its seconds, and what went wrong."""

    began: float
    total: float
    stages: dict[str, float]
    guards: dict[str, float]


class Plant:
    """A server with calls. Settings change by moves, for the turns that end from then on."""

    def __init__(self, world: World = NORMAL, seed: int = 0) -> None:
        self.world = world
        self.of = dict(START)
        self.now = 0.0
        self.turns: list[Turn] = []
        self.moves: list[tuple[int, Move]] = []
        """Each with the number of turns before it."""
        self._tuner: Tuner | None = None
        self._chance = random.Random(seed)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._active = 0
        self._wasted = 0.0
        """Seconds of work for nothing that no turn has been told of."""

    def run(self, tuner: Tuner | None, count: int, world: World | None = None) -> list[Turn]:
        """Go on until `count` more turns were answered, in `world` from now on; return them."""
        self.world, self._tuner = world or self.world, tuner
        first = len(self.turns)
        while len(self.turns) < first + count:
            while self._active < min(self.world.calls, self.of["max_calls"]):
                self._active += 1
                self._later(self._chance.uniform(1, 8), self._call())
            self.now, _, happen = heappop(self._queue)
            happen()
            for move in tuner.decide(self.now) if tuner else ():
                self.moves.append((len(self.turns), move))
                if move.applied:
                    self.of[move.knob] = move.after
        return self.turns[first:]

    def _later(self, after: float, happen: Callable[[], None]) -> None:
        heappush(self._queue, (self.now + after, next(self._order), happen))

    def _call(self) -> Callable[[], None]:
        """Return the first thing that happens in a new call, which has the others follow."""
        ends = self.now + self._chance.uniform(60, 180)

        def speak() -> None:
            if self.now > ends:
                self._active -= 1
                return
            pause = paused(self.world, self._chance)
            if pause:
                self._later(self._chance.uniform(0.5, 1.5), lambda: self._pause(pause))
            self._later(self._chance.uniform(2, 4) + pause, stop)

        def stop() -> None:
            missed = self._chance.random() < misses(self.of)
            self._answer({"misses": 1.0} if missed else {})
            self._later(self._chance.uniform(3, 6), speak)

        return speak

    def _pause(self, pause: float) -> None:
        """A caller pauses: the answer to what they said so far is begun, and may be given."""
        if pause > awaited(self.of, self._chance):
            self._answer({"cut_ins": 1.0}, pause)
            return
        guess = turns(_arrays(self.of), self.world, self._active, draw(self._chance, 1))
        lead = self.of["turn.speculation_lead"]
        spent = pause - max(0.075, awaited(self.of, self._chance) - lead)
        if self.of["turn.speculations"] and spent > 0:
            wasted = min(spent, float(guess.chain[0]))
            self._wasted += wasted

    def _answer(self, guards: dict[str, float], pause: float | None = None) -> None:
        """The caller seems to be done: the answer comes, and some time later it is over.

        They were not done if that was a `pause`.
        """
        made = turns(_arrays(self.of), self.world, self._active, draw(self._chance, 1))
        stages = {name: float(seconds[0]) for name, seconds in made.stages.items()}
        turn = Turn(self.now, float(made.total[0]), stages, guards)
        wasted, self._wasted = self._wasted, 0.0
        if wasted:
            guards["wasted"] = wasted
        if made.dry[0] and self._chance.random() < 0.5:
            guards["underruns"] = 1.0

        def answered() -> None:
            self.turns.append(turn)
            if self._tuner:
                self._tuner.answered(turn.stages, turn.total, turn.began, self.now)

        def over() -> None:
            if self._tuner:
                self._tuner.worked(float(made.chain[0]) + 0.3 + wasted, turn.began)
                for guard, amount in guards.items():
                    spared = pause if guard == "cut_ins" else None
                    self._tuner.strained(guard, amount, turn.began, spared)

        self._later(turn.total, answered)
        self._later(turn.total + 1.5, over)


def _arrays(of: Settings) -> dict[str, Array]:
    return {name: np.array([value]) for name, value in of.items()}


# What is possible.


def best(world: World, free: Sequence[Knob] = KNOBS) -> tuple[float, dict[str, float]]:
    """Return the least p95, in seconds, that keeps the guard rails, and one setting that has it.

    Every combination of the values is tried, on the same 60 turns.
    """
    chance = draw(random.Random(7), 60)
    cut_ins = _cut_ins(world)
    names = [knob.name for knob in KNOBS if knob.name != "max_calls"]
    values = [
        knob.values if knob in free else (knob.values[knob.start],)
        for knob in KNOBS
        if knob.name != "max_calls"
    ]
    found: tuple[float, dict[str, float]] = math.inf, {}
    admitted = KNOBS[-1].values if KNOBS[-1] in free else (100.0,)
    for calls in {min(float(world.calls), number) for number in admitted}:
        grid = np.array(list(itertools.product(*values)))
        for rows in np.array_split(grid, len(grid) // 400 + 1):
            of = {name: rows[:, [column]] for column, name in enumerate(names)}
            made = turns(of, world, calls, chance)
            p95 = np.partition(made.total, 56, axis=1)[:, 56]
            for row in np.argsort(p95):
                if p95[row] >= found[0]:
                    break
                setting = {name: float(of[name][row, 0]) for name in names}
                kept = {
                    "cut_ins": cut_ins[setting["turn.longest_wait"], setting["turn.shortest_wait"]],
                    "misses": misses(setting),
                    "underruns": float(made.dry[row].mean()) / 2,
                }
                if all(rate <= LIMITS[guard] for guard, rate in kept.items()):
                    found = float(p95[row]), setting | {"max_calls": calls}
    return found


def _cut_ins(world: World) -> dict[tuple[float, float], float]:
    """Return the rate of cut-ins by longest and shortest wait."""
    chance = random.Random(7)
    pauses = [paused(world, chance) for _ in range(2000)]
    return {
        (longest, shortest): sum(
            pause > awaited({KNOBS[0].name: longest, KNOBS[1].name: shortest}, chance)
            for pause in pauses
            if pause
        )
        / len(pauses)
        for longest in KNOBS[0].values
        for shortest in KNOBS[1].values
    }


# Runs.


def budget(world: World = NORMAL, more: float = 0.1) -> Budget:
    """Return the undisturbed p95 and `more`, split by what the stages take undisturbed."""
    plant, floors = Plant(world), Floors()
    done = plant.run(None, 400)
    for turn in done:
        floors.note(turn.stages)
    total = percentile([turn.total for turn in done], 95) + more
    return Budget(total, 95.0, derived(total, floors.values(), {}))


def p95(of: Sequence[Turn]) -> float:
    """Return the 95th percentile of turns, in seconds."""
    return percentile([turn.total for turn in of], 95)


def rate(of: Sequence[Turn], guard: str) -> float:
    """Return how much of a guard rail there is a turn."""
    return sum(turn.guards.get(guard, 0.0) for turn in of) / len(of)


def main(seed: int = 0) -> None:
    """Print what becomes of each disturbance with the loop off and on; p95 in milliseconds."""
    limit = budget()
    print(f"budget {limit.total * 1000:.0f} ms, undisturbed {limit.total * 1000 - 100:.0f} ms")
    print(f"{'disturbance':26}{'off':>6}{'on':>6}{'best':>6}{'moves':>7}  at the end of it")
    for name, world in DISTURBANCES.items():
        plant, tuner = Plant(seed=seed), Tuner(KNOBS, limit, LIMITS, "on")
        plant.run(tuner, 200)
        plant.run(tuner, 200, world)
        later = plant.run(tuner, 200)
        moved = [f"{name} {value:g}" for name, value in plant.of.items() if value != START[name]]
        moves = len(plant.moves)
        plant.run(tuner, 1000, NORMAL)
        back = "back at the start" if plant.of == START else "not back at the start"
        times = (p95(Plant(seed=seed).run(None, 200, world)), p95(later), best(world)[0])
        print(
            f"{name:26}{''.join(f'{time * 1000:6.0f}' for time in times)}{moves:7}  "
            f"{', '.join(moved) or 'nothing moved'}; 1000 turns later {back}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
