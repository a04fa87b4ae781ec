"""The generations of RWKV, one torch module each, for training and for any device."""

from receptance.models.heads import HeadsConfig, HeadsState
from receptance.models.interface import AnyModel, Config, LanguageModel, State
from receptance.models.rwkv4 import RWKV4, RWKV4Config, RWKV4State
from receptance.models.rwkv5 import RWKV5, RWKV5Config
from receptance.models.rwkv6 import RWKV6, RWKV6Config
from receptance.models.rwkv7 import RWKV7, RWKV7Config

__all__ = [
    "RWKV4",
    "RWKV5",
    "RWKV6",
    "RWKV7",
    "AnyModel",
    "Config",
    "HeadsConfig",
    "HeadsState",
    "LanguageModel",
    "RWKV4Config",
    "RWKV4State",
    "RWKV5Config",
    "RWKV6Config",
    "RWKV7Config",
    "State",
]
