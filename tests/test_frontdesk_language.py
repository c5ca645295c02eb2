"""What callers say: the two halves, the recogniser's sentences, the prompts of whole calls."""

import random
from datetime import datetime
from pathlib import Path

import pytest

from demos.frontdesk import clinic, examples, language
from demos.frontdesk.desk import Desk
from demos.frontdesk.dialogues import simulate
from demos.frontdesk.language import Meaning, Moment, Said
from demos.frontdesk.wordings import FAMILIES
from llm.chat import ChatTemplate

MODEL = Path("demos/frontdesk/model")


def test_no_wording_is_both_trained_on_and_held_out() -> None:
    for family, wordings in FAMILIES.items():
        assert wordings.train, family
        assert wordings.held_out, family
        assert not set(wordings.train) & set(wordings.held_out), family


def test_the_sentences_for_the_recogniser_are_written_from_the_wordings(tmp_path: Path) -> None:
    language.write(tmp_path)
    for file in language.SPEECH.iterdir():
        assert file.read_text() == (tmp_path / file.name).read_text(), (
            f"{file.name}: run python -m demos.frontdesk.language --write"
        )


def test_the_recogniser_has_a_pronunciation_of_every_word() -> None:
    import pocketsphinx

    file = Path(pocketsphinx.get_model_path()) / "en-us" / "cmudict-en-us.dict"
    known = {line.split()[0] for line in file.read_text().splitlines()}
    for file in language.SPEECH.iterdir():
        assert set(file.read_text().split()) <= known, file.name


@pytest.mark.parametrize(
    ("family", "slots", "moment", "meaning"),
    [
        ("time", {"time": "10:30"}, Moment("move", "time"), Meaning("move", {"time": "10:30"})),
        ("time", {"time": "10:30"}, Moment(), Meaning("book", {"time": "10:30"})),
        (
            "not_day",
            {"day": "friday"},
            Moment("book", "yes_no"),
            Meaning("book", {"day": "friday"}),
        ),
        ("yes", {}, Moment("book", "yes_no"), Meaning("confirm", {"answer": "yes"})),
        ("yes", {}, Moment("book", "person"), Meaning("transfer")),
        ("yes", {}, Moment("book", "day"), Meaning(reply="unclear")),
        ("no", {}, Moment("", "kind"), Meaning("hang_up")),
        ("elsewhere", {}, Moment("book", "day"), Meaning(reply="elsewhere")),
    ],
)
def test_a_sentence_means_what_the_moment_makes_of_it(
    family: str, slots: dict[str, str], moment: Moment, meaning: Meaning
) -> None:
    assert language.meaning(Said("", family, slots), moment) == meaning


def test_every_way_to_say_a_time_leads_back_to_no_more_than_one_slot() -> None:
    rng = random.Random(1)
    meant: dict[str, str] = {}
    for slot in clinic.SLOTS * 60:
        said = language.time_said(slot, rng)
        assert meant.setdefault(said, slot) == slot


def test_the_desk_never_says_in_its_own_words_that_anything_was_written() -> None:
    for kind in language.LEADS:
        for doing in ("", "book", "move", "cancel"):
            for ask in language.QUESTIONS:
                line = language.reply(kind, Moment(doing, ask))
                assert not any(word in line for word in ("booked", "moved", "cancelled")), line


async def test_prompts_of_whole_calls_are_those_the_model_was_trained_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "desk.sqlite", lambda: datetime(2026, 11, 23, 8, 0))
    template, rng = ChatTemplate(MODEL), random.Random(2)
    trained = {moment for moment, _ in examples.MOMENTS}
    for _ in range(40):
        for turn in await simulate(desk, rng):
            prompt = examples.prompt(turn.moment, turn.said.text)
            assert template.render(turn.items, []) == prompt
            assert turn.moment in trained
