"""fastchar against torch: `python -m benchmarks.run`, then `python -m benchmarks.report`.

Each group (`benchmarks/groups/`) is one operation with its contestants; `grids` holds the points
they are measured at, `interleave` the one timing loop, `results/<machine>/` what came out.
"""
