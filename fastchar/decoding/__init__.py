"""From a model's distributions to text: search for the best, or sampling."""

from fastchar.decoding.inference import inference
from fastchar.decoding.sampling import check_sampling, drawn, sample
from fastchar.decoding.search import Found, Memory, State, beam_search, greedy_search

__all__ = [
    "Found",
    "Memory",
    "State",
    "beam_search",
    "check_sampling",
    "drawn",
    "greedy_search",
    "inference",
    "sample",
]
