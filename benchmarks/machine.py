"""What a result was measured on: the machine, the versions, and whether others used its cores."""

import datetime
import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

import fastchar

ROOT = Path(__file__).parent.parent
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    """The processor's name, with family and model: a name can stand for several generations."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()

    def field(name: str) -> str:
        found = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
        return found.group(1).strip() if found else ""

    name = field("model name") or platform.machine()
    family, model = field("cpu family"), field("model")
    return f"{name}, family {family} model {model}" if family and model else name


def caches() -> dict[str, int]:
    """Bytes of core 0's data caches by level, e.g. {"L1d": 32768, "L2": 1048576}."""
    sizes = {}
    for entry in sorted(CACHES.glob("index*")):
        kind = (entry / "type").read_text().strip()
        level = (entry / "level").read_text().strip()
        size = (entry / "size").read_text().strip()
        if kind != "Instruction":
            scale = {"K": 2**10, "M": 2**20}.get(size[-1], 1)
            sizes[f"L{level}{'d' if kind == 'Data' else ''}"] = int(size.rstrip("KM")) * scale
    return sizes


def last_level_cache() -> int:
    """Bytes of the last-level cache; 32 MiB where the system does not say."""
    return max(caches().values(), default=32 * 2**20)


def commit() -> str:
    """The commit the working tree stands on, with "+" when files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "fastchar", "csrc", "benchmarks/*.py")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def describe() -> dict[str, Any]:
    """Everything a reader needs to place a number; JSON-ready."""
    return {
        "name": slug(),
        "cpu": cpu_model(),
        "cores": cores(),
        "caches": caches(),
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "fastchar": fastchar.__version__,
        "backends": fastchar.backends(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def slug() -> str:
    """The folder of this machine's results, e.g. "amd-epyc-family-25-model-17-2-cores"."""
    model = re.sub(r"\(r\)|\(tm\)|cpu|processor|@.*", " ", cpu_model().lower())
    return "-".join(re.findall(r"[a-z0-9]+", model)) + f"-{cores()}-cores"


class Contention:
    """Measures how many cores other processes kept busy between two moments (Linux only)."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._busy = _busy_seconds()
        self._own = _own_seconds()

    def foreign_cores(self) -> float | None:
        """Cores' worth of work by others since the start; None where the system does not say."""
        busy = _busy_seconds()
        if busy is None or self._busy is None:
            return None
        wall = time.perf_counter() - self._start
        own = _own_seconds() - self._own
        return max(0.0, (busy - self._busy - own) / wall)


class Record:
    """What every result file says of its run beside its numbers. Made when the run begins."""

    def __init__(self, group: str, title: str, **about: str) -> None:
        self._about = {"group": group, "title": title, **about, "machine": describe()}
        self._contention = Contention()

    def result(self, **found: Any) -> dict[str, Any]:
        """The file's content, once all is measured."""
        return {**self._about, "foreign_cores": self._contention.foreign_cores(), **found}


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _busy_seconds() -> float | None:
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
