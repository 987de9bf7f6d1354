"""Text to ids and back."""

from fastchar.text.batching import pad
from fastchar.text.vocabulary import Vocabulary

__all__ = ["Vocabulary", "pad"]
