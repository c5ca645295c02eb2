from hypothesis import given
from hypothesis import strategies as st

from llm.engine import Message, ToolCall, ToolResult
from voice.context import MOST, Context


def test_only_heard_words_stay() -> None:
    context = Context("be kind")
    context.caller_said(1, "hello")
    context.agent_says(1, "Good morning, who is there?")
    assert context.agent_heard(1, 2) == "who is there?"
    assert context.items()[-1] == Message("assistant", "Good morning,")


def test_an_answer_nobody_heard_leaves_no_trace() -> None:
    context = Context("be kind")
    context.caller_said(1, "hello")
    context.agent_says(1, "Good morning.")
    context.agent_heard(1, 0)
    assert context.items() == [Message("system", "be kind"), Message("user", "hello")]
    assert context.unanswered


def test_words_without_an_answer_join_the_next() -> None:
    context = Context("")
    context.caller_said(1, "on tuesday")
    context.caller_said(2, "at ten")
    assert context.items()[-1] == Message("user", "on tuesday at ten")


def test_heard_words_count_across_a_tool() -> None:
    context = Context("")
    call, result = ToolCall("1", "look", {}), ToolResult("1", "look", {})
    context.agent_says(1, "One moment.")
    context.tool_called(1, call, result)
    context.agent_says(1, "It is free.")
    assert context.agent_heard(1, 3) == "is free."
    assert context.items()[1:] == [
        Message("assistant", "One moment."),
        call,
        result,
        Message("assistant", "It"),
    ]


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), max_size=5), st.data())
def test_heard_and_cut_words_are_all_the_words(
    phrases: list[list[str]], data: st.DataObject
) -> None:
    context = Context("")
    for phrase in phrases:
        context.agent_says(1, " ".join(phrase))
    words = [word for phrase in phrases for word in phrase]
    heard = data.draw(st.integers(0, len(words)))
    cut = context.agent_heard(1, heard).split()
    kept = [
        word
        for item in context.items()[1:]
        if isinstance(item, Message)
        for word in item.text.split()
    ]
    assert kept == words[:heard]
    assert kept + cut == words


def test_a_long_conversation_forgets_its_beginning_but_not_its_instructions() -> None:
    context = Context("Be brief.")
    for turn in range(1, 1000):
        context.caller_said(turn, f"words {turn}")
        context.tool_called(
            turn, ToolCall(str(turn), "look", {}), ToolResult(str(turn), "look", {})
        )
        context.agent_says(turn, f"answer {turn}")
        assert len(context.entries) <= MOST
        assert context.items()[0] == Message("system", "Be brief.")
        assert not isinstance(context.items()[1], ToolResult)
    assert context.items()[-1] == Message("assistant", "answer 999")


def test_what_is_restored_is_what_was_true_before() -> None:
    context = Context("Be brief.")
    context.caller_said(1, "hello")
    before, snapshot = list(context.items()), context.snapshot()
    context.caller_said(2, "again")
    context.agent_says(2, "Good morning.")
    context.restore(snapshot)
    assert list(context.items()) == before
