"""``python -m fastchar``: the command line."""

from fastchar.cli import main

if __name__ == "__main__":
    main()
