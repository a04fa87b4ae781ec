"""Tasks with one right answer at the end of a sequence: batches to learn from, and how many are right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from receptance.data import NOT_LEARNT
from reproduction.training import Batches

Question = tuple[Sequence[int], int]  # tokens, and the answer that is to follow them
Draw = Callable[[int], Question]  # of a number: questions from 0 on are to learn, those below 0 to test


def batches(draw: Draw, size: int, device: str = "cpu") -> Batches:
    """Return the batches of a task: the same for every model."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        tokens, answers, ends = stacked([draw(step * size + row) for row in range(size)], device)
        targets = torch.full_like(tokens, NOT_LEARNT)
        targets[torch.arange(size, device=device), ends] = answers
        return tokens, targets

    return batch


@torch.inference_mode()
def accuracy(model: Any, draw: Draw, questions: int, size: int, device: str = "cpu") -> float:
    """Return the share of the questions that are tested with whose answer is the likeliest token."""
    right = 0
    for first in range(0, questions, size):
        numbers = range(first, min(first + size, questions))
        tokens, answers, ends = stacked([draw(-1 - number) for number in numbers], device)
        hidden = model.features(tokens)[0]
        last = hidden[torch.arange(len(numbers), device=device), ends]
        right += int((model.head(last).argmax(-1) == answers).sum())
    return right / questions


def stacked(questions: Sequence[Question], device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens `[batch, time]`, filled up with zeros, the answers, and each one's last position."""
    longest = max(len(tokens) for tokens, _ in questions)
    tokens = torch.tensor(
        [[*tokens, *[0] * (longest - len(tokens))] for tokens, _ in questions], device=device
    )
    answers = torch.tensor([answer for _, answer in questions], device=device)
    return tokens, answers, torch.tensor([len(tokens) - 1 for tokens, _ in questions], device=device)
