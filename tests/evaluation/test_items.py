"""What answers come to, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from receptance.evaluation.encoding import Encoding
from receptance.evaluation.items import Answer, Choice, Completion, Text, Tokens
from receptance.evaluation.perplexity import Window
from receptance.evaluation.scoring import Scored
from receptance.tokenizers import load_tokenizer

BYTES = Encoding(load_tokenizer("bytes"))


def scored(*log_probabilities: float, greedy: bool = False) -> Scored:
    return Scored(torch.tensor(log_probabilities), torch.full((len(log_probabilities),), greedy))


def test_a_choice_is_the_likeliest_and_by_length_the_likeliest_a_character() -> None:
    item = Choice(contexts=("Q",), endings=("a", "bbbb"), right=1, by_length=True)
    kept = item.kept([scored(-2.0), scored(-1.0, -2.0)], BYTES)
    assert kept == [-2.0, -3.0]
    assert item.measures(kept) == {"acc": (0.0, 1.0), "acc_norm": (1.0, 1.0)}
    assert [bytes(each.continuation) for each in item.requests(BYTES)] == [b" a", b" bbbb"]


def test_of_equal_choices_the_first_is_chosen() -> None:
    assert Choice(contexts=("",), endings=("a", "b"), right=0).measures([-1.0, -1.0]) == {"acc": (1.0, 1.0)}


def test_choices_may_differ_in_what_comes_before() -> None:
    item = Choice(contexts=("He", "She"), endings=("ran.",), right=1)
    assert item.pairs == [("He", "ran."), ("She", "ran.")]
    assert item.example == "She ran.\n\n"
    assert item.after("Head ").pairs == [("Head He", "ran."), ("Head She", "ran.")]


def test_a_completion_counts_as_one_word() -> None:
    item = Completion(context="once upon a", ending=" time")
    kept = item.kept([scored(-1.0, -2.0, greedy=True)], BYTES)
    assert item.measures(kept) == {"acc": (1.0, 1.0), "perplexity": (3.0, 1.0)}


@pytest.mark.parametrize(
    ("written", "is_right"),
    [(" The Onion! ", 1.0), ("onion", 0.0), ("the onion", 1.0), ("bulb", 1.0), ("", 0.0)],
)
def test_an_answer_counts_but_for_case_punctuation_and_blanks_around_it(
    written: str, is_right: float
) -> None:
    item = Answer(prompt="Q", answers=("The onion", "Bulb"), stop=("\n",))
    assert item.measures(written) == {"exact_match": (is_right, 1.0)}
    assert item.example == "Q The onion\n\n"


def test_the_loss_of_a_text_is_shared_out_to_bytes_tokens_and_words() -> None:
    item = Text.of("zwei Wörter")
    assert (item.num_bytes, item.num_words) == (12, 2)
    kept = item.kept([scored(-1.0, -2.0, -3.0, -4.0, -5.0)], BYTES)
    assert kept == {"tokens": 5, "nats": 15.0, "first": [1.0, 3.0, 10.0]}
    measures = item.measures(kept)
    assert measures["bits_per_byte"] == (pytest.approx(15 / math.log(2)), 12.0)
    assert measures["byte_perplexity"] == (15.0, 12.0)
    assert measures["token_perplexity"] == (15.0, 5.0)
    assert measures["word_perplexity"] == (15.0, 2.0)


def test_a_text_in_windows_is_scored_whole_and_has_no_positions() -> None:
    item = Text.of("abcdef", Window(size=4, stride=2))
    requests = item.requests(BYTES)
    assert [bytes(each.context) for each in requests] == [b"\n", b"\ncd"]
    assert [bytes(each.continuation) for each in requests] == [b"abcd", b"ef"]
    assert item.kept([scored(-1.0, -1.0), scored(-2.0)], BYTES) == {"tokens": 3, "nats": 4.0, "first": []}


def test_a_document_of_a_store_has_the_bytes_of_its_tokens() -> None:
    item = Tokens(tokens=(97, 98, 0), source="a store")
    (request,) = item.requests(BYTES)
    assert (bytes(request.context), bytes(request.continuation)) == (b"\n", b"ab")
    kept = item.kept([scored(-1.0, -2.0)], BYTES)
    assert kept == {"tokens": 2, "nats": 3.0, "first": [1.0, 3.0], "bytes": 2}
    of_text = Text.of("ab").measures(kept)
    assert item.measures(kept) == {name: of_text[name] for name in of_text if name != "word_perplexity"}
