"""``fastchar`` and ``python -m fastchar``: the command line."""

from __future__ import annotations

import sys


def main() -> None:
    """The console script; a package that it needs and that is missing is one line."""
    try:
        from fastchar.cli import main as run

        run()
    except ModuleNotFoundError as error:
        sys.exit(f"fastchar: the command line needs {error.name}: pip install 'fastchar[train]'")


if __name__ == "__main__":
    main()
