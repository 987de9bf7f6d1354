"""Text to ids and back."""

from fastchar.text.batching import batches_by_length, pad
from fastchar.text.vocabulary import Vocabulary

__all__ = ["Vocabulary", "batches_by_length", "pad"]
