"""Work for other processes that tests wait for: compilers, emulated GPUs, suites of their own.

A test module names it in `BESIDE`, functions by the key under which the fixture `beside`
(conftest.py) has their results, as futures. All of it starts with the first test, and those that
ask for `beside` come last, so that it runs on the cores that the others leave idle.
"""

import os
import subprocess
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import MappingProxyType


def pool() -> ProcessPoolExecutor:
    """Of processes, which no test's patches reach, nor its environment and folder; before them come
    the tests' own threads, on every core."""
    context = get_context("spawn")
    return ProcessPoolExecutor(os.cpu_count() or 1, context, initializer=os.nice, initargs=(10,))


def run(
    command: list[str],
    env: Mapping[str, str] = MappingProxyType({}),
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """What `command` says and returns, with `env` added to the environment."""
    environment = {**os.environ, **env}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
