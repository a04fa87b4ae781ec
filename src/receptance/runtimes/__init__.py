"""Other ways to run a model than its torch module, with the same meaning."""

from receptance.runtimes.native import NativeModel

__all__ = ["NativeModel"]
