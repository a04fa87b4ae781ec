"""The generations of RWKV, one torch module each, for training and for any device."""

from receptance.models.interface import AnyModel, Config, LanguageModel, State
from receptance.models.rwkv4 import RWKV4, RWKV4Config, RWKV4State

__all__ = ["RWKV4", "AnyModel", "Config", "LanguageModel", "RWKV4Config", "RWKV4State", "State"]
