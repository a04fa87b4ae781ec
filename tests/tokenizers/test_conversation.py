"""Conversations as text: the published form, and exactly the answers learnt."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receptance.tokenizers import load_tokenizer
from receptance.tokenizers.conversation import ROLES, Span, Turn, render, tidy

turns = st.lists(
    st.builds(
        Turn,
        st.sampled_from(sorted(set(ROLES.values()))),
        st.text("ab \n"),
    ),
    max_size=6,
)


def text_of(spans: tuple[Span, ...]) -> str:
    return "".join(span.text for span in spans)


def test_a_conversation_has_the_form_that_world_models_know() -> None:
    spans = render(
        [
            Turn("system", "Be brief."),
            Turn("user", " Hi!\r\n\r\n\nThere? "),
            Turn("assistant", "Yes.\n\nHere."),
            Turn("user", "Weather?"),
            Turn("tool_call", '{"city": "Rome"}'),
            Turn("tool", "sunny"),
            Turn("assistant", "Sunny."),
        ]
    )
    assert spans == (
        Span("System: Be brief.\n\nUser: Hi!\nThere?\n\nAssistant:", is_learnt=False),
        Span(" Yes.\nHere.\n\n", is_learnt=True),
        Span("User: Weather?\n\nAssistant:", is_learnt=False),
        Span(' ```json\n{"city": "Rome"}\n```\n\n', is_learnt=True),
        Span("User: Function output:\nsunny\n\nAssistant:", is_learnt=False),
        Span(" Sunny.", is_learnt=True),
    )


@given(turns)
def test_only_the_ends_of_turns_are_blank_lines(conversation: list[Turn]) -> None:
    spans = render(conversation)
    assert text_of(spans).count("\n\n") == max(0, len(conversation) - 1)
    assert all(a.is_learnt != b.is_learnt for a, b in pairwise(spans))


@given(turns)
def test_what_a_model_is_asked_with_is_what_it_was_trained_on(conversation: list[Turn]) -> None:
    """The prompt before each answer is made of whole spans, so its tokens are those of training."""
    spans = render(conversation)
    for index, turn in enumerate(conversation):
        if turn.role != "assistant":
            continue
        asked = text_of(render([*conversation[:index], Turn("assistant", "")]))
        begins = ["".join(span.text for span in spans[:count]) for count in range(len(spans) + 1)]
        assert asked in begins or not tidy(turn.content)


def test_a_prompt_has_the_published_tokens() -> None:
    (prompt,) = render([Turn("user", "hi"), Turn("assistant", "")])
    assert load_tokenizer("world").encode(prompt.text) == [24281, 59, 4571, 261, 5585, 41693, 59]


@pytest.mark.parametrize("text", ["a\n\n\nb", "a\r\n\r\nb", " a\n \t\nb\n\n"])
def test_runs_of_line_breaks_become_one(text: str) -> None:
    assert tidy(text) == "a\nb"
