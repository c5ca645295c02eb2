from dataclasses import replace

import pytest

from helpers import plain_agent


@pytest.mark.parametrize("budget", [-1.0, 0.0, float("nan"), 61.0])
def test_an_agent_has_a_budget_that_can_be_held(budget: float) -> None:
    assert replace(plain_agent(), budget=0.6).budget == 0.6
    with pytest.raises(ValueError, match=r"the budget of agent .* expected 0\.05 to 60\.0 s"):
        replace(plain_agent(), budget=budget)
