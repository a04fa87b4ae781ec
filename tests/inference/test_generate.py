"""The plain loop writes what it is defined to write: like argmax by hand, with any span, to any stop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from receptance.errors import ConfigError
from receptance.inference.generate import Piece, generate
from receptance.inference.reading import read
from receptance.inference.sampling import Sampling, sample, uniform
from receptance.models import RWKV4, State
from receptance.tokenizers import load_tokenizer
from tests.inference.models import Scripted, random_model

BYTES = load_tokenizer("bytes")
GREEDY = Sampling(temperature=0)


def scripted(text: str | bytes, *, max_tokens: int, stop: str | list[str] = ()) -> list[Piece]:
    """The pieces of a model that says the bytes of this text, then ends it."""
    said = text.encode() if isinstance(text, str) else text
    model = Scripted([*said, 0])
    return list(generate(model, BYTES, [65], max_tokens=max_tokens, sampling=GREEDY, stop=stop))


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_greedy_generation_is_a_loop_of_argmax() -> None:
    model = random_model()
    tokens = list(b"In the beginning")
    pieces = list(generate(model, BYTES, tokens, max_tokens=30, sampling=GREEDY))
    with torch.no_grad():
        for piece in pieces:
            logits, _ = model(torch.tensor([tokens]))
            tokens.append(int(logits[0, -1].argmax()))
            assert piece.token == tokens[-1]
    assert len(pieces) == 30 or pieces[-1].finish_reason == "end_of_text"


def test_the_last_token_is_not_read_in_vain_and_the_prompt_is_read_at_once() -> None:
    model = Scripted(b"abc")
    list(generate(model, BYTES, [1, 2, 3], max_tokens=3, sampling=GREEDY))
    assert model.read == [[1, 2, 3], [97], [98]]


def test_an_empty_prompt_starts_a_document() -> None:
    model = Scripted(b"a")
    list(generate(model, BYTES, [], max_tokens=1, sampling=GREEDY))
    assert model.read == [[BYTES.end_of_text]]


def test_each_token_is_drawn_by_the_chance_of_its_position() -> None:
    model, sampling, tokens = random_model(), Sampling(temperature=1.5, top_p=0.9, seed=8), list(b"Once")
    for piece in generate(model, BYTES, tokens[:], max_tokens=12, sampling=sampling):
        logits, _ = read(model, torch.tensor([tokens]))
        tokens.append(int(sample(logits[0], sampling, uniform(8, len(tokens)))))
        assert piece.token == tokens[-1]


def test_the_same_seed_writes_the_same_and_another_seed_something_else() -> None:
    model = random_model()

    def written(seed: int) -> list[int]:
        sampling = Sampling(temperature=1.5, top_p=1, seed=seed)
        return [piece.token for piece in generate(model, BYTES, b"Once", max_tokens=20, sampling=sampling)]

    assert written(5) == written(5)
    assert written(5) != written(6)


def test_going_on_with_the_longer_prompt_and_the_same_seed_writes_the_same_text() -> None:
    model, sampling = random_model(seed=3), Sampling(top_p=1, seed=1)
    whole = [piece.token for piece in generate(model, BYTES, b"Once", max_tokens=16, sampling=sampling)]
    rest = generate(model, BYTES, [*b"Once", *whole[:6]], max_tokens=10, sampling=sampling)
    assert whole[6:] == [piece.token for piece in rest]


def test_the_reasons_for_the_end() -> None:
    for pieces, text, reason in [
        (scripted("abcdef", max_tokens=4), "abcd", "length"),
        (scripted("abcdef", max_tokens=6), "abcdef", "length"),
        (scripted("abcdef", max_tokens=7), "abcdef", "end_of_text"),
        (scripted("abcdef", max_tokens=7, stop="de"), "abc", "stop"),
        (scripted("abcdef", max_tokens=6, stop=["x", "f"]), "abcde", "stop"),
        (scripted("", max_tokens=5), "", "end_of_text"),
    ]:
        assert text_of(pieces) == text
        assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + [reason]


@settings(deadline=None)
@given(
    st.text(st.sampled_from("ab\né漢🦢"), max_size=12),
    st.lists(st.text(st.sampled_from("ab\né漢"), min_size=1, max_size=3)),
)
def test_stop_strings_are_found_across_tokens_that_are_parts_of_characters(
    text: str, stops: list[str]
) -> None:
    cuts = [text.find(stop) + len(stop) for stop in stops if stop in text]
    pieces = scripted(text, max_tokens=100, stop=stops)
    if cuts:
        end = min(cuts)
        longest = max(len(stop) for stop in stops if text[:end].endswith(stop))
        assert text_of(pieces) == text[: end - longest]
        assert pieces[-1].finish_reason == "stop"
    else:
        assert text_of(pieces) == text
        assert pieces[-1].finish_reason == "end_of_text"


def test_text_that_only_began_a_stop_string_is_written_at_the_end() -> None:
    assert text_of(scripted("ab\n\nUse", max_tokens=7, stop="\n\nUser:")) == "ab\n\nUse"
    assert text_of(scripted("ab\n\nUse", max_tokens=99, stop="\n\nUser:")) == "ab\n\nUse"


def test_no_piece_holds_half_a_character_and_none_is_lost() -> None:
    pieces = scripted("漢字", max_tokens=6)
    assert [piece.text for piece in pieces] == ["", "", "漢", "", "", "字"]
    cut = scripted("漢字", max_tokens=5)
    assert text_of(cut) == BYTES.decode(piece.token for piece in cut) == "漢\ufffd"


def test_ids_that_the_tokenizer_does_not_have_are_never_drawn() -> None:
    model = random_model(vocabulary_size=300)
    with torch.no_grad():
        model.head.weight[256:] *= 50
    sampling = Sampling(temperature=2.0, top_p=1, seed=0)
    tokens = [piece.token for piece in generate(model, BYTES, b"a", max_tokens=50, sampling=sampling)]
    assert max(tokens) < 256


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "stop", "complaint"),
    [
        ([1, 256], 5, (), "Token 256 is unknown to the model, whose ids go from 0 to 255"),
        ([-1], 5, (), "Token -1 is unknown"),
        ([1], 0, (), "max_tokens is 0"),
        ([1], 5, "", "stop string is empty"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_first_piece(
    prompt: list[int], max_tokens: int, stop: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        generate(Scripted(b""), BYTES, prompt, max_tokens=max_tokens, sampling=GREEDY, stop=stop)


def test_reading_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="no tokens"):
        read(random_model(), torch.empty(1, 0, dtype=torch.long))


class Borrowed:
    """A runtime that is no torch module, and notes what it is asked for."""

    def __init__(self, model: RWKV4) -> None:
        self.config, self.device, self._model = model.config, model.device, model
        self.asked: list[bool] = []

    def __call__(
        self, tokens: torch.Tensor, state: State | None = None, *, last_only: bool = False
    ) -> tuple[torch.Tensor, State]:
        self.asked.append(last_only)
        logits, state = self._model(tokens, state)
        return (logits[:, -1:] if last_only else logits), state


def test_any_runtime_writes_what_the_model_writes_and_gives_the_last_logits_alone() -> None:
    model, sampling = random_model(), Sampling(seed=2, top_p=1)
    runtime = Borrowed(model)
    written = [
        list(generate(reader, BYTES, b"Once" * 200, max_tokens=9, sampling=sampling, logprobs=1))
        for reader in (model, runtime)
    ]
    assert [piece.token for piece in written[0]] == [piece.token for piece in written[1]]
    assert runtime.asked == [True] * (2 + 8)  # 800 tokens in two spans, then one at a time


def test_log_probabilities_are_of_the_model_and_not_of_the_sampling() -> None:
    model, tokens = random_model(), list(b"Once")
    sampling = Sampling(temperature=2.0, top_k=5, presence_penalty=3.0, ban=[0], seed=5)
    for piece in generate(model, BYTES, tokens[:], max_tokens=8, sampling=sampling, logprobs=4):
        logits, _ = read(model, torch.tensor([tokens]))
        expected = logits[0].double().log_softmax(-1)
        assert piece.logprob == pytest.approx(float(expected[piece.token]), abs=1e-5)
        best = expected.topk(4)
        assert [token for token, _ in piece.top_logprobs] == best.indices.tolist()
        assert [value for _, value in piece.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-5)
        tokens.append(piece.token)


def test_what_cannot_be_obeyed_is_refused_before_anything_is_read() -> None:
    model = Scripted(b"abc")
    for sampling, logprobs, complaint in (
        (Sampling(ban=[256]), None, "ban names token 256"),
        (Sampling(logit_bias={300: 1.0}), None, "logit_bias names token 300"),
        (GREEDY, -1, "logprobs is -1"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            generate(model, BYTES, [1], max_tokens=3, sampling=sampling, logprobs=logprobs)
    assert model.read == []
