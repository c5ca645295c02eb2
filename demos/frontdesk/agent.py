"""The front desk as an agent: its own lines, its tools, its model and its callers' words."""

from pathlib import Path

from voice.agent import Agent, Lines

from . import clinic
from .call import DeskCall
from .desk import Desk

HERE = Path(__file__).parent

INSTRUCTIONS = f"""You answer the phone of {clinic.NAME}: you book, move and cancel appointments.
Pass on what the caller just said with a tool, and nothing that was not said. Tools answer the
caller themselves. Never say that anything is booked, moved or cancelled. Talk of anything else:
say what you can do and offer a person."""

LINES = Lines(
    greeting=f"{clinic.NAME} front desk, hello. "
    "I can book, move or cancel an appointment. How can I help?",
    again={
        "": "Sorry, I did not get that. Would you like to book, move or cancel an appointment?",
        "day": "Sorry, I did not get that. Which day would you like?",
        "time": "Sorry, I did not get that. Which time would you like?",
        "day_time": "Sorry, I missed that. What shall I change, the day, the time or the name?",
        "name": "Sorry, I did not get that. Please say your first and last name.",
        "yes_no": "Sorry, I did not get that. Was that a yes or a no?",
        "kind": "Sorry, I did not get that. Is there anything else I can do?",
    },
    person="I'm sorry, I keep missing you. Would you like to speak to a person?",
)


def load(data: Path) -> Agent:
    """Open the clinic's book in `data` and return its front desk."""
    desk = Desk(data / "frontdesk.sqlite")
    model = HERE / "model"
    return Agent(
        name=f"{clinic.NAME} front desk",
        instructions=INSTRUCTIONS,
        lines=LINES,
        open=lambda: DeskCall(desk),
        model=model if (model / "model.safetensors").is_file() else None,
        speech=HERE / "speech",
        suggestions=(
            "I'd like to book an appointment for Tuesday",
            "Can I move my appointment to Thursday at ten?",
            "When are you open on Friday?",
            "I'd like to speak to a person",
        ),
    )
