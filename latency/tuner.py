"""The loop from a budget to the knobs: which setting to move, and whether it helped. Pure.

Four states, one table of what happens in each (`docs/latency.md` draws it):

- *watching*: the latest turns are counted against the budget and the guard rails.
- *measuring*: too many were over. Fresh turns tell how slow they are and which stage is at fault.
- *trying*: one knob stands one step or more nearer to fast; its turns are compared with those
  measured before. It is kept if they are clearly faster, and taken back in every other case.
- *restoring*: the budget is kept with room to spare; one knob stands one step nearer to where it
  was configured, and stays there unless turns are over the budget.

A guard rail that breaks ends a trial at once; one that breaks without a trial has a knob that
strains it made safer, whatever that does to the budget. What failed is barred for a while that
doubles. Turns that began before a move never count for it.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from latency.budget import Budget, at_fault
from latency.knob import SLOW, Knob, Standing
from latency.move import Kind, Move, ms, step
from latency.trial import JUDGED, MEASURED, WORTH, Trial
from latency.window import KEPT, LONGEST_AGO, SHARE, Answered, Level, Window

__all__ = ["Kind", "Knob", "Mode", "Move", "Tuner"]

Mode = Literal["on", "observe"]

SETTLED = 6
"""Turns after a trial that was taken back before the next."""

FAR = 0.2
"""Share of the budget by which turns that are over it are far over it."""

ROOM = 0.05
"""Share of the budget that has to be left when a knob goes back to the start."""

FASTEST, AT_ONCE = 4.0, 8.0
"""Turns a second that count for how long what failed is barred, and those that may come at once:
that a guard rail breaks is seen when replies are over, seconds later, and by then hundreds of turns
with that value may have begun."""

CHANGED = 0.15
"""Share of the budget, or of what is usual if that is more, by which turns differ, without a move,
when the conditions changed."""

ALARM = 4.0
"""Times its limit at which a guard rail has a knob go to its safest value at once."""


class Tuner:
    """Moves one knob at a time until the turns of all calls keep the budget."""

    def __init__(
        self,
        knobs: Sequence[Knob],
        budget: Budget,
        guard_limits: Mapping[str, float],
        mode: Mode = "observe",
        pinned: Collection[str] = (),
    ) -> None:
        self.budget = budget
        """May be replaced at any time."""
        self._limits = dict(guard_limits)
        self._mode = mode
        self._standings = [Standing(knob, knob.start) for knob in knobs]
        self._free = [entry for entry in self._standings if entry.knob.name not in pinned]
        self._turn = 0
        """Turns that were answered so far, in all calls, `FASTEST` a second at most."""
        self._to_count, self._counted_at = AT_ONCE, 0.0
        self._window = Window(-math.inf)
        self._measuring = False
        self._trial: Trial | None = None
        self._usual: Level | None = None
        """How slow turns were when that was first known after the latest move."""
        self._stuck = ""
        """Stage that no setting helps."""
        self._said: set[str] = set()
        """What is not said again until the conditions change."""

    @property
    def knobs(self) -> list[Knob]:
        """All that there are, with the values that they may have now."""
        return [entry.knob for entry in self._standings]

    @property
    def values(self) -> dict[str, float]:
        """In force, by knob."""
        return {entry.knob.name: entry.value for entry in self._standings}

    @property
    def state(self) -> str:
        """What is going on, for a person."""
        if self._trial:
            doing = "trying" if self._trial.stage else "restoring"
            return f"{doing} {self._trial.standing.knob.name}"
        if self._stuck:
            return f"no setting helps: {self._stuck}"
        over = self._measuring or self._window.over(self.budget)
        return "over budget: measuring" if over else "within budget"

    def answered(self, stages: Mapping[str, float], total: float, began: float, now: float) -> None:
        """Take a turn whose first sound has left; `began` is when the caller fell silent."""
        self._to_count = min(AT_ONCE, self._to_count + FASTEST * (now - self._counted_at))
        self._counted_at = now
        if self._to_count >= 1:
            self._to_count -= 1
            self._turn += 1
        self._window.answered(Answered(began, total, dict(stages)))

    def strained(
        self, guard: str, amount: float, began: float, spared: float | None = None
    ) -> None:
        """Count `amount` against a guard rail, in the turn that `began` then.

        One for each "cut_ins", "underruns" and "misses"; seconds for "wasted". Where it is known
        that it would not have been with a knob above some value, that is `spared`.
        """
        self._window.counted(guard, amount, began, spared)

    def worked(self, seconds: float, began: float) -> None:
        """Count seconds that engines worked for the turn that `began` then, wasted ones too."""
        self._window.counted("", seconds, began)

    def decide(self, now: float) -> list[Move]:
        """Return the moves to make now; set those that are `applied`."""
        self._window.forget(now - LONGEST_AGO)
        if self._trial:
            move = self._judge(self._trial, now)
        else:
            move = self._relieve(now) or self._watch(now)
        return [] if move is None else [move]

    def relist(self, knob: Knob) -> None:
        """Give the knob of this name other values, unless it was moved."""
        for entry in self._standings:
            tried = self._trial is not None and self._trial.standing is entry
            if entry.knob.name == knob.name and entry.index == entry.knob.start and not tried:
                entry.knob, entry.index = knob, knob.start

    def lose(self, name: str, value: float) -> None:
        """Note that a knob could not be moved: it is at `value` and stays there."""
        if self._trial and self._trial.standing.knob.name == name:
            self._end()
        for entry in self._free:
            if entry.knob.name == name:
                entry.index = entry.knob.values.index(value)
        self._free = [entry for entry in self._free if entry.knob.name != name]

    # Watching and measuring.

    def _watch(self, now: float) -> Move | None:
        """Look whether the turns keep the budget; try or restore a knob."""
        turns = len(self._window)
        if turns < MEASURED:
            return self._return_idle(now)
        self._note_conditions()
        if self._measuring:
            if self._window.fresh < SETTLED:
                return None
            self._measuring = False
            if self._p95 > self._goal:
                return self._restore(now, safer=True) or self._try(now)
        if self._window.over(self.budget):
            self._window = Window(now)
            self._measuring = True
            return None
        if turns < JUDGED and now < self._window.since + LONGEST_AGO:
            return None
        self._stuck = ""
        if turns == KEPT and not self._broken():
            self._said.clear()
        return self._restore(now)

    def _note_conditions(self) -> None:
        """Forget what was learned, if turns take clearly another time and nothing was moved."""
        level = self._window.level()
        if self._usual is None:
            self._usual = level
            return
        usually = max(self.budget.total, self._usual.mean)
        least = max(CHANGED * usually, 4 * level.noise(self._usual))
        if abs(level.mean - self._usual.mean) > least:
            self._usual = level
            self._stuck = ""
            self._said.clear()
            for entry in self._standings:
                entry.forget()

    # Trying.

    def _try(self, now: float) -> Move | None:
        """Make a knob faster that the stage at fault has, else one of the next stage."""
        total = self.budget.total
        stages = self._window.stages(total)
        excess = {name: took - self.budget.split.get(name, 0.0) for name, took in stages.items()}
        fault = at_fault(stages, self.budget.split) or max(excess, key=excess.__getitem__)
        p95 = self._p95
        why = (
            f"{self._name} {ms(p95)} {'over' if p95 > total else 'close to'} {ms(total)}; "
            f"{fault} at fault ({excess[fault] * 1000:+.0f} ms over its share)"
        )
        ways = [
            (entry, stage)
            for stage in sorted(excess, key=excess.__getitem__, reverse=True)
            if stages[stage] > WORTH * total
            for entry in self._choices(stage)
        ]
        slow = [way for way in ways if way[0].knob.settle >= SLOW]
        hope = sum(stages[stage] for stage in {way[1] for way in ways})
        soon = sum(stages[stage] for stage in {way[1] for way in ways if way not in slow})
        if soon < p95 - total:  # not even all the time that these stages take would do
            ways = slow if hope >= p95 - total else []
        entry, stage = min(ways, key=lambda way: way[0].last_resort, default=(None, ""))
        if entry is None or entry.useless.length or entry.knob.settle >= SLOW:
            # All that helps at once was tried. Fewer calls, and in time the same again, are left.
            if p95 <= total:
                return None
            self._stuck = fault
            move = self._give_up(
                "budget", f"{why}; no setting helps: {self._obstacles(fault)}", now
            )
            if move or entry is None:
                return move
        over = p95 - total
        index = entry.index + entry.steps(over, over > FAR * total, self._turn)
        if stage != fault:
            why += f", nothing left for it; {stage} takes {ms(stages[stage])}"
        return self._move(entry, index, "try", f"{why}; trying {step(entry, index)}", now, stage)

    def _choices(self, stage: str) -> list[Standing]:
        """Return the knobs that may shorten `stage` now, the most promising first."""
        # What has one knob safer than configured leaves the others that strain it no room, either.
        tight = self._broken().union(
            *(entry.knob.guards for entry in self._free if entry.index < entry.knob.start)
        )
        return sorted(
            (
                entry
                for entry in self._free
                if stage in entry.knob.stages
                and entry.index >= entry.knob.start
                and entry.room(self._turn)
                and not tight.intersection(entry.knob.guards)
            ),
            key=lambda entry: entry.promise,
        )

    def _obstacles(self, stage: str) -> str:
        """Say why none of the knobs of `stage` can be made faster."""
        obstacles = []
        for entry in self._standings:
            if stage in entry.knob.stages:
                pinned = entry not in self._free
                why = "is pinned" if pinned else entry.obstacle(self._turn)
                obstacles.append(f"{entry.knob.name} {why}")
        return ", ".join(obstacles) or "none is known for it"

    def _judge(self, trial: Trial, now: float) -> Move | None:
        """End a trial as soon as it is clear how."""
        window, entry = self._window, trial.standing
        # What is known to break whatever is set ends no trial of a knob that does not strain it.
        broken = self._broken() - (self._said - set(entry.knob.guards))
        if trial.steps > 0 and broken:
            own = broken.intersection(entry.knob.guards)
            if own:
                entry.strain(self._turn, entry.index)
            return self._take_back(trial, self._tell(min(own or broken)), now)
        if trial.steps < 0 and (move := self._relieve(now)):
            self._end()
            return move
        verdict = trial.verdict(window, self.budget)
        if verdict == "open":
            if now < window.since + LONGEST_AGO:
                return None
            few = f"only {len(window)} turns in {LONGEST_AGO:.0f} s"
            if trial.stage:
                return self._take_back(trial, few, now)
            self._end()
            return None
        entry.learn(trial.before, trial.gain(window))
        if verdict == "good":
            entry.settle()
            if trial.stage:
                return self._keep(trial, now)
            self._end()
            return None
        if trial.stage:
            entry.fail(self._turn)
            reason = f"gained {ms(trial.gain(window))} ± {ms(trial.noise(window))}"
        else:
            entry.held.close(self._turn)
            reason = f"{self._name} {ms(self._p95)} over {ms(self.budget.total)}"
        return self._take_back(trial, reason, now)

    def _broken(self) -> set[str]:
        """Return the guard rails that are broken."""
        return {name for name, limit in self._limits.items() if self._window.strain(name, limit)}

    def _keep(self, trial: Trial, now: float) -> Move:
        """Leave the knob as it is, and measure anew."""
        entry, p95 = trial.standing, self._p95
        before = trial.past.percentile(self.budget.percentile)
        entry.held.close(self._turn)
        self._end()
        self._measuring = True
        name, gain = entry.knob.name, ms(trial.gain(self._window))
        reason = f"{self._name} {ms(before)} -> {ms(p95)}; {name} {entry.value:g} gained {gain}"
        self._window = Window(now)  # those that it was kept for were fast by chance, too
        return Move(now, name, entry.value, entry.value, "keep", reason, before, p95, True)

    def _take_back(self, trial: Trial, why: str, now: float) -> Move | None:
        """Undo a trial."""
        p95 = self._p95 if len(self._window) else None
        reason = f"{why}; back: {step(trial.standing, trial.before)}"
        self._end()
        move = self._move(trial.standing, trial.before, "roll_back", reason, now)
        self._window = trial.past
        self._window.resume(now + trial.standing.knob.settle)
        self._measuring = bool(trial.stage)
        return move and replace(move, p95_before=self._p95, p95_after=p95)

    def _end(self) -> None:
        """Go on with what was tried."""
        self._trial = self._usual = None

    # Guard rails, and the way back.

    def _relieve(self, now: float) -> Move | None:
        """Make a knob safer that strains a broken guard rail, those that were moved first."""
        for guard, limit in self._limits.items():
            rate = self._window.strain(guard, limit)
            if not rate:
                continue
            why = self._tell(guard)
            choices = [e for e in self._free if guard in e.knob.guards and e.index > 0]
            if not choices:
                if move := self._give_up(guard, f"{why}; no setting is safer", now):
                    return move
                continue
            spared = self._window.spared(guard, 1 - limit / rate)
            # One that was not moved is no better than another, but for one that would have helped.
            entry = max(
                choices, key=lambda e: (e.index - e.knob.start, e.above(spared) is not None)
            )
            index, barred = entry.index - 1, entry.index
            if (safe := entry.above(spared)) is not None:
                index, barred = safe, safe + 1
            elif rate > ALARM * limit:
                index = entry.knob.start if entry.index > entry.knob.start else 0
            if self._mode == "on":
                entry.strain(self._turn, barred)
            if move := self._move(entry, index, "relieve", f"{why}; {step(entry, index)}", now):
                return move
        return None

    def _restore(self, now: float, safer: bool = False) -> Move | None:
        """Take a knob one step back to where it was configured, the cheapest first.

        Over the budget, only those that are `safer` than configured.
        """
        p95, total = self._p95, self.budget.total
        for entry in sorted(self._free, key=lambda entry: entry.price):
            index = entry.index + entry.homeward(self._turn)
            if index == entry.index or (safer and index < entry.index):
                continue
            if index < entry.index and p95 + entry.gains.get(entry.index, 0.0) > (1 - ROOM) * total:
                # Believed once: another disturbance may have ended in the trial that it is from.
                entry.held.close(self._turn)
                entry.gains.clear()
                continue
            reason = f"{self._name} {ms(p95)} of {ms(total)}; {step(entry, index)}"
            return self._move(entry, index, "restore", reason, now, "")
        return None

    def _return_idle(self, now: float) -> Move | None:
        """Put a knob where it was configured, after a time with too few turns to judge by."""
        since = self._window.since
        if now < since + LONGEST_AGO:
            return None
        for entry in self._free:
            start = entry.knob.start
            if entry.index > start or entry.homeward(self._turn):
                few = f"only {len(self._window)} turns in {LONGEST_AGO:.0f} s"
                move = self._move(entry, start, "restore", f"{few}; {step(entry, start)}", now)
                self._window = Window(since)  # the others follow at once
                return move
        return None

    # What every move has.

    def _move(
        self,
        entry: Standing,
        index: int,
        kind: Kind,
        reason: str,
        now: float,
        stage: str | None = None,
    ) -> Move | None:
        """Set a knob, if this is for more than to observe; on trial where there is a `stage`."""
        p95 = self._p95 if len(self._window) else None
        before, after = entry.value, entry.knob.values[index]
        name = entry.knob.name
        move = Move(now, name, before, after, kind, reason, p95, None, self._mode == "on")
        if self._mode == "observe":
            return self._once(f"{kind} {name}", move)
        if stage is not None:
            self._trial = Trial(entry, entry.index, stage, self._window)
        entry.index = index
        self._window = Window(now + entry.knob.settle)
        self._usual, self._measuring = None, False
        return move

    def _give_up(self, what: str, reason: str, now: float) -> Move | None:
        """Say, once, that nothing can be done about `what`."""
        p95 = self._p95 if len(self._window) else None
        return self._once(what, Move(now, "", 0.0, 0.0, "give_up", reason, p95, None, False))

    def _once(self, what: str, move: Move) -> Move | None:
        """Return `move`, unless that was said under these conditions."""
        if what in self._said:
            return None
        self._said.add(what)
        return move

    @property
    def _goal(self) -> float:
        """What the percentile has to come down to, in seconds: with room once anything moved."""
        moved = any(entry.index > entry.knob.start for entry in self._free)
        return self.budget.total * (1 - ROOM if moved else 1)

    @property
    def _name(self) -> str:
        return f"p{self.budget.percentile:g}"

    @property
    def _p95(self) -> float:
        """The budget's percentile of the window's turns, in seconds."""
        return self._window.percentile(self.budget.percentile)

    def _tell(self, guard: str) -> str:
        """Say how far a guard rail is over its limit."""
        share = "of engine time" if guard == SHARE else "of turns"
        limit = self._limits[guard]
        rate = self._window.strain(guard, limit)
        return f"{guard} at {rate:.0%} {share}, over {limit:.0%}"
