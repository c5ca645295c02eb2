"""What all calls of a process share: engines, models, the pacer, and what the machine allows."""

from collections.abc import Callable
from dataclasses import dataclass

import asr.engine
import llm.engine
import tts.engine
from asr import vad
from asr.turn_end import TurnEnd
from transport.pacer import Pacer
from voice.agent import Agent
from voice.knobs import Knobs
from voice.recording import AtFault


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """What all calls of a process share.

    Attributes:
        ears: The recogniser.
        mind: The language model.
        mouth: The synthesiser.
        vad: The model that tells speech from silence.
        pacer: Sends all calls' audio in time.
        agent: Who answers.
        knobs: The settings that may change while calls go on.
        turn_end: Tells how likely a caller is done.
        may_speculate: Whether this machine has time for answers that may be dropped.
        late: How late the event loop was lately, in seconds.
        at_fault: Names the stage to blame for a turn that is over its budget.
    """

    ears: asr.engine.Engine
    mind: llm.engine.Engine
    mouth: tts.engine.Engine
    vad: vad.VadModel
    pacer: Pacer
    agent: Agent
    knobs: Knobs
    turn_end: TurnEnd
    may_speculate: Callable[[], bool]
    late: Callable[[], float]
    at_fault: AtFault
