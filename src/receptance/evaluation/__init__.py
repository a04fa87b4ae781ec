"""How good a model is: the likelihood of texts and of answers, tasks, what they come to and how surely.

lm = receptance.load("model.safetensors", runtime="auto")
asked = questions("piqa", "folder", limit=500)
result = Result(asked.items, {"mine": answers(lm, asked.items, Encoding(lm.tokenizer))})
result.estimate("mine", "acc")
"""

from receptance.evaluation.answering import answers
from receptance.evaluation.documents import documents
from receptance.evaluation.encoding import Encoding, PrefixName
from receptance.evaluation.estimates import PERPLEXITIES, PROPORTIONS, Estimate
from receptance.evaluation.generation import write_greedily
from receptance.evaluation.items import (
    Answer,
    Asked,
    Choice,
    Completion,
    Document,
    Item,
    Kept,
    Text,
    Tokens,
)
from receptance.evaluation.kept_answers import KeptAnswers, identity, kept_in
from receptance.evaluation.perplexity import (
    PositionLoss,
    Window,
    by_position,
    by_position_from_sums,
    token_losses,
)
from receptance.evaluation.questions import questions
from receptance.evaluation.recall import GENERATED, generated
from receptance.evaluation.results import Result, finite
from receptance.evaluation.scoring import Request, Scored, score
from receptance.evaluation.tasks import TASKS

__all__ = [
    "GENERATED",
    "PERPLEXITIES",
    "PROPORTIONS",
    "TASKS",
    "Answer",
    "Asked",
    "Choice",
    "Completion",
    "Document",
    "Encoding",
    "Estimate",
    "Item",
    "Kept",
    "KeptAnswers",
    "PositionLoss",
    "PrefixName",
    "Request",
    "Result",
    "Scored",
    "Text",
    "Tokens",
    "Window",
    "answers",
    "by_position",
    "by_position_from_sums",
    "documents",
    "finite",
    "generated",
    "identity",
    "kept_in",
    "questions",
    "score",
    "token_losses",
    "write_greedily",
]
