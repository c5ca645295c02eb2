"""Conversations as models are told them: in every form that templates ask for, harmless, cut."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.chat import ChatTemplate
from llm.engine import EngineError, Item, Message, ToolCall, ToolResult
from llm.prompt import fitting

MISTRAL = """\
{%- if messages[0].role == "system" -%}
{%- set orders, talk = messages[0].content, messages[1:] -%}
{%- else -%}{%- set orders, talk = "", messages -%}{%- endif -%}
{%- set ns = namespace(index=0) -%}
{%- for m in talk -%}
{%- if m.role == "user" or (m.role == "assistant" and m.tool_calls is not defined) -%}
{%- if (m.role == "user") != (ns.index % 2 == 0) -%}
{{ raise_exception("conversation roles must alternate user/assistant/user/assistant/...") }}
{%- endif -%}
{%- set ns.index = ns.index + 1 -%}
{%- endif -%}
{%- endfor -%}
{%- for m in talk -%}
{%- if m.role == "user" -%}
{{ "[INST] " + (orders + "\\n\\n" if loop.last and orders else "") + m.content + "[/INST]" }}
{%- elif m.tool_calls is defined -%}{{ "[TOOL_CALLS] " + m.tool_calls[0].function.name }}
{%- elif m.role == "tool" -%}{{ "[TOOL_RESULTS] " + m.content }}
{%- elif m.role == "assistant" -%}{{ " " + m.content + "</s>" }}
{%- else -%}{{ raise_exception("Only user and assistant roles are supported!") }}
{%- endif -%}
{%- endfor -%}
"""

GEMMA = """\
{%- if messages[0].role == "system" -%}
{{ raise_exception("System role not supported") }}
{%- endif -%}
{%- for m in messages -%}
{%- if (m.role == "user") != (loop.index0 % 2 == 0) -%}
{{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
{%- endif -%}
{{ "<" + ("model" if m.role == "assistant" else m.role) + ">" + m.content | trim + "</>" }}
{%- endfor -%}
{%- if add_generation_prompt -%}<model>{%- endif -%}
"""

ORDERS = Message("system", "Be kind.")
GREETING = Message("assistant", "Clinic, good day!")
ASKS = Message("user", "A room?")
WAITS = Message("user", "Hello?")
CALL, RESULT = ToolCall("1", "book", {"day": 2}), ToolResult("1", "book", {"ok": True})


def template(path: Path, source: str) -> ChatTemplate:
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": source}))
    return ChatTemplate(path)


@pytest.mark.parametrize(
    ("items", "prompt"),
    [
        ([ORDERS, ASKS], "[INST] Be kind.\n\nA room?[/INST]"),
        (
            [ORDERS, GREETING, ASKS],
            "[INST] Hello.[/INST] Clinic, good day!</s>[INST] Be kind.\n\nA room?[/INST]",
        ),
        ([ASKS, WAITS], "[INST] A room?\n\nHello?[/INST]"),
        (
            [ASKS, CALL, RESULT, GREETING, GREETING, WAITS],
            '[INST] A room?[/INST][TOOL_CALLS] book[TOOL_RESULTS] {"ok": true}'
            " Clinic, good day!\n\nClinic, good day!</s>[INST] Hello?[/INST]",
        ),
        (
            [ASKS, CALL, RESULT, WAITS],
            '[INST] A room?[/INST][TOOL_CALLS] book[TOOL_RESULTS] {"ok": true}'
            " Yes.</s>[INST] Hello?[/INST]",
        ),
    ],
)
def test_a_template_that_wants_the_roles_to_alternate_gets_them_so(
    tmp_path: Path, items: list[Item], prompt: str
) -> None:
    assert template(tmp_path, MISTRAL).render(items, []) == prompt


@pytest.mark.parametrize(
    ("items", "prompt"),
    [
        ([ORDERS, ASKS], "<user>Be kind.\n\nA room?</><model>"),
        (
            [ORDERS, GREETING, ASKS],
            "<user>Be kind.</><model>Clinic, good day!</><user>A room?</><model>",
        ),
        ([GREETING, ASKS], "<user>Hello.</><model>Clinic, good day!</><user>A room?</><model>"),
    ],
)
def test_a_template_that_knows_no_instructions_gets_them_from_the_user(
    tmp_path: Path, items: list[Item], prompt: str
) -> None:
    refusing = template(tmp_path, GEMMA)
    assert refusing.render(items, []) == prompt
    assert refusing.prefix(items, []) == ""


def test_a_template_that_accepts_the_conversation_gets_it_as_it_is(tmp_path: Path) -> None:
    plain = template(tmp_path, "{% for m in messages %}{{ m.role[0] }}{{ m.content }};{% endfor %}")
    items = [ORDERS, GREETING, GREETING, ASKS, WAITS]
    assert plain.render(items, []) == (
        "sBe kind.;aClinic, good day!;aClinic, good day!;uA room?;uHello?;"
    )


def test_what_no_form_helps_against_is_said_in_the_templates_words(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="refuses the conversation: Conversation roles must alt"):
        template(tmp_path, GEMMA).render([ORDERS, ASKS, CALL, RESULT], [])


def test_what_training_is_to_learn_is_rendered_like_the_rest(tmp_path: Path) -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}!"
        "{%- endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    assert template(tmp_path, source).render([ASKS, GREETING], []) == "A room?Clinic, good day!!"


def letters(items: list[Item]) -> list[str]:
    """Stand in for a template and tokenizer: a token a letter, four for each item."""
    texts = [item.text if isinstance(item, Message) else f"{item.id}{item.name}" for item in items]
    return list("".join(f"<{text}>\n\n" for text in texts))


TALK = st.lists(
    st.one_of(
        st.text("ab", max_size=20).map(lambda text: [Message("user", text)]),
        st.just([CALL, RESULT]),
        st.just([CALL, ToolCall("2", "ask", {}), ToolResult("2", "ask", {}), RESULT]),
        st.just([ToolCall("3", "ask", {})]),  # is never answered
    ),
    max_size=12,
).map(lambda groups: [item for group in groups for item in group])


@given(TALK, st.integers(10, 200))
def test_a_cut_conversation_is_the_longest_that_fits_and_keeps_calls_with_their_results(
    talk: list[Item], limit: int
) -> None:
    told: list[list[Item]] = []

    def encode(items: list[Item]) -> list[str]:
        told.append(list(items))
        return letters(list(items))

    def whole(items: list[Item]) -> bool:
        called: set[str] = set()
        for item in items:
            if isinstance(item, ToolResult) and item.id not in called:
                return False
            if isinstance(item, ToolCall):
                called.add(item.id)
        return True

    last = Message("user", "c")
    starts = [[ORDERS, *talk[at:], last] for at in range(len(talk) + 1)]
    expected = next(
        (rest for rest in starts if whole(rest[1:]) and len(letters(rest)) <= limit), None
    )
    if expected is None:
        with pytest.raises(EngineError, match=f"expected at most {limit};"):
            fitting([ORDERS, *talk, last], limit, encode)
    else:
        assert fitting([ORDERS, *talk, last], limit, encode) == letters(expected)
    assert len(told) <= 7  # of up to 49 items
