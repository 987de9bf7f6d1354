"""Drop-in modules: `torch.nn`'s interfaces over `fastchar.functional`."""

from fastchar.nn.conversion import accelerate
from fastchar.nn.embedding import Embedding
from fastchar.nn.embedding_lstm import EmbeddingLSTM
from fastchar.nn.lstm import LSTM
from fastchar.nn.lstm_cell import LSTMCell

__all__ = ["LSTM", "Embedding", "EmbeddingLSTM", "LSTMCell", "accelerate"]
