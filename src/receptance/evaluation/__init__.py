"""How good a model is: the likelihood of texts and of answers, tasks, what they come to and how surely."""

from receptance.evaluation.perplexity import PositionLoss, Window, by_position, token_losses
from receptance.evaluation.scoring import Request, Scored, score

__all__ = ["PositionLoss", "Request", "Scored", "Window", "by_position", "score", "token_losses"]
