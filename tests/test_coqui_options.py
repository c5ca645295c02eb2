from dataclasses import fields
from typing import Any

import pytest

from tts.coqui_options import CoquiOptions


def test_every_default_is_valid_and_every_field_is_a_plain_value() -> None:
    options = CoquiOptions()
    for field in fields(options):
        assert type(getattr(options, field.name)) in (bool, int, float, str)
        assert f"{field.name}: " in str(CoquiOptions.__doc__)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "tpu"}, "coqui.device is 'tpu'; expected auto, cpu, cuda or cuda:NUMBER"),
        ({"language": "English"}, "coqui.language is 'English'; expected a code"),
        ({"threads": 65}, "coqui.threads is 65; expected 0 to 64"),
        ({"batch": 0}, "coqui.batch is 0; expected 1 to 256"),
        ({"first": 0.01}, "coqui.first is 0.01; expected 0.05 to 2"),
        ({"first": 1.5}, "coqui.longest is 1.0; expected 1.5 to 10"),
        ({"loudness": 0.0}, "coqui.loudness is 0.0; expected -40 to -6"),
        ({"characters": 5}, "coqui.characters is 5; expected 40 to 1000"),
        ({"seed": -1}, "coqui.seed is -1; expected 0 to"),
    ],
)
def test_what_is_out_of_range_is_named_with_what_was_expected(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        CoquiOptions(**given)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_devices(device: str) -> None:
    assert CoquiOptions(device=device).device == device


def test_some_may_change_while_calls_go_on() -> None:
    options = CoquiOptions()
    for name, value in (("coqui.first", 0.2), ("coqui.longest", 2.0), ("coqui.batch", 8)):
        options = options.adjusted(name, value)
    assert options == CoquiOptions(first=0.2, longest=2.0, batch=8)
    assert type(options.batch) is int


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("coqui.first", 1.5, "coqui.longest is 1.0; expected 1.5 to 10"),
        ("coqui.longest", 0.1, "coqui.longest is 0.1; expected 0.3 to 10"),
        ("coqui.batch", 2.5, "coqui.batch is 2.5; expected a whole number"),
        ("coqui.batch", float("nan"), "expected a whole number"),
        ("coqui.device", 1.0, "coqui.device cannot change while calls go on"),
    ],
)
def test_what_cannot_be_changed_is_named(name: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoquiOptions().adjusted(name, value)
