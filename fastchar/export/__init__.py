"""Trained models as ONNX graphs, for programs that have neither torch nor fastchar."""
