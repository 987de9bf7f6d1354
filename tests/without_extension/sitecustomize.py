"""With this folder on PYTHONPATH, every Python process is one where fastchar._C was never built."""

import sys

sys.modules["fastchar._C"] = None  # type: ignore[assignment]
