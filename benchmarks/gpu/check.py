"""Everything that a machine with an NVIDIA GPU can show, in one command and under ten minutes.

    python -m benchmarks.gpu.check        (or: make gpu-check)

Builds for this GPU, runs the CUDA tests, times the kernels against torch's by CUDA-graph replay,
then runs compute-sanitizer on small cases and Nsight Compute, and with the time that is left times
more. Needs torch with CUDA, nvcc, pytest and hypothesis; downloads and installs nothing. Writes
gpu_check.json and gpu_check.md into $OUT (by default the GPU's folder in benchmarks/results, whence
`python -m benchmarks.report` takes them to docs/performance.md) at once, after every part, and as
benchmark points come, and what Nsight Compute found as gpu_profile.*: what fails or hangs is ended,
it says so there, and the next one runs. Exit code 1 if the build, a test or a sanitizer failed.
$GPU_CHECK_SECONDS has more time for everything (1500: the whole grid of points, and sanitizers in
no hurry).
"""

import contextlib
import datetime
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.points import done, points
from benchmarks.gpu.report import RESULT, Entry, markdown, slug

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("toolkit", ROOT / "csrc" / "cuda" / "build.py")
assert _spec is not None
assert _spec.loader is not None
toolkit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toolkit)
# In all; benchmark points that don't fit are counted and left out.
SECONDS = float(os.environ.get("GPU_CHECK_SECONDS") or 570)
SCALE = max(SECONDS / 570, 1)  # of the limits of parts, which are for the default
FOR_BENCHMARKS = 0.3 * SECONDS  # whatever the checks before take
FOR_SANITIZERS = 0.35 * SECONDS  # of what the benchmarks can spare
# What an environment, such as a container's, may have chosen otherwise: for whom to compile, which
# kernels run. Each is as in a fresh shell, but for this GPU alone.
CHOICES = ("FASTCHAR_BACKEND", "FASTCHAR_CUDA_LSTM", "FASTCHAR_CPU_ISA")
POINTS = [sys.executable, "-m", "benchmarks.gpu.points"]
TIMED = ("embedding_backward", "lstm", "ways")  # the groups of the points
A_POINT = 40  # seconds after which a benchmark point hangs
STARTS = 6  # of the process that measures the points
A_TOOL = 65  # seconds of a sanitizer
A_PART = 15  # seconds that it may need for what it has begun, and for its report
TO_DIE = 20  # seconds that are waited for a process that has been killed
SAVED_EVERY = 5  # seconds, while points come
# pytest's last line, also where all was skipped or nothing could be imported; a sanitizer's.
SUMMARY = r"^.*(?:\d (?:passed|failed|skipped|errors?)\b|ERROR SUMMARY|RACECHECK SUMMARY).*$"
KEPT = 12000  # characters of an output's begin and of its end, of a check that failed
# compute-sanitizer's options. It watches every kernel of ours, and no other. Errors that API calls
# return are none of its business: torch asks the driver for functions that it may lack, and the
# launchers check their own calls. An access out of bounds ends its kernel and not the process, and
# comes without Python's stack, which would fill the report. Importing torch may take longer than
# the ten seconds for which it waits for a process to begin with CUDA.
WATCH = ["--kernel-name", "kns=fastchar", "--report-api-errors", "no", "--error-exitcode", "9"]
WATCH += ["--destroy-on-device-error", "kernel", "--show-backtrace", "device"]
WATCH += ["--print-limit", "20", "--target-processes", "application-only", "--launch-timeout", "0"]
# The tests in processes of their own, since one kernel that hangs or traps takes along what runs
# with it: the file, and what is selected there if not all.
A_GROUP = 90  # seconds of one, beside the others
PARITY, LAUNCH = "tests/test_cuda_parity.py", "tests/test_cuda_launch.py"
WAYS = ("block", "cluster", "grid", "steps")
SEQUENCES = "test_sequence or lstm_in_float32 or autocast or beyond or torch_lstm"
GROUPS = {
    "embedding, cell, loss": (PARITY, "test_embedding or test_cell or test_loss"),
    **{f"every way: {way}": (PARITY, f"every_way and {way}") for way in WAYS},
    "sequences": (PARITY, SEQUENCES),
    "streams, graphs": (LAUNCH, ""),
    "ptxas's report": ("tests/test_cuda_build.py", ""),
}
A_PROFILE = 90  # seconds
# ncu's options; the clocks stay as they are.
PROFILE = ["--set", "full", "--clock-control", "none", "--force-overwrite"]
PROFILE += ["--kernel-name-base", "demangled", "--kernel-name", "regex:fastchar"]


def run(what: str, command: list[str], seconds: float, **more: str) -> Entry:
    """One check: the command, whether it passed, how long it took, the end of its output.

    `more` goes into its environment. In a session of its own, which is killed as a whole when the
    time is up: compute-sanitizer's child would go on, and keep the GPU busy. Without 5 seconds left
    it is not run.
    """
    entry = {
        "what": what,
        "command": " ".join(command).replace(sys.executable, "python"),
        "passed": False,
        "seconds": 0.0,
        "summary": "not run: no time left",
        "output": "",
    }
    if seconds < 5:
        return entry
    start = time.monotonic()
    environment = {**os.environ, "FASTCHAR_CUDA": "1", "PYTHONUNBUFFERED": "1", **more}
    with tempfile.TemporaryFile("w+", errors="replace") as out:  # a pipe may outlive the child
        try:
            child = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True
            )
        except OSError as error:  # a tool of another machine's, say
            return {**entry, "summary": "could not be started", "output": str(error)}
        late = f"not finished after {seconds:.0f} s"
        if wait_or_kill(child, seconds):
            late = ""
        out.seek(0)
        output = out.read()
    parts = re.findall(r"^\d+ of \d+ parts$", output, re.M)
    found = re.findall(SUMMARY, output, re.M)
    entry["passed"] = child.returncode == 0 and not late
    entry["seconds"] = round(time.monotonic() - start, 1)
    words = ", ".join([*parts[-1:], *(line.strip("= ") for line in found[-1:])])
    silent = "" if entry["passed"] else f"exit code {child.returncode}"
    entry["summary"] = late or words or silent
    entry["output"] = "" if entry["passed"] else both_ends(output)
    return entry


def both_ends(output: str) -> str:
    """The first error is what most of the others follow from; the last lines count them."""
    if len(output) <= 2 * KEPT:
        return output
    return f"{output[:KEPT]}\n[{len(output) - 2 * KEPT} characters left out]\n{output[-KEPT:]}"


def wait_or_kill(child: "subprocess.Popen[Any]", seconds: float) -> bool:
    """Whether the child, a session's leader, has ended in time; it is killed otherwise."""
    try:
        child.wait(seconds)
        return True
    except subprocess.TimeoutExpired:
        return False
    finally:  # an interrupt ends it too
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(TO_DIE)  # a driver may hold on to one whose kernel hangs


def not_run(what: str, why: str, passed: bool | None) -> Entry:
    """A check that there is no command for; `passed` None where that is no failure."""
    entry = {"what": what, "command": "", "passed": passed, "seconds": 0.0}
    return {**entry, "summary": f"not run: {why}", "output": why}


def beside_nvcc(tool: str) -> str | None:
    """A tool of the CUDA toolkit: on the PATH, beside nvcc, or where toolkits are installed."""
    folders = [Path("/usr/local/cuda/bin"), Path("/usr/local/cuda/compute-sanitizer")]
    nvcc = toolkit.find_nvcc()
    if nvcc:
        home = Path(nvcc).resolve().parent.parent
        folders = [Path(nvcc).parent, home / "bin", home / tool, *folders]
    return shutil.which(tool) or shutil.which(tool, path=os.pathsep.join(map(str, folders)))


def checks(left: Callable[[], float]) -> Iterator[Entry]:
    """Build and parity tests; left() is what they may still take."""
    python = sys.executable
    if toolkit.find_nvcc() is None:
        yield not_run("build", "no nvcc in CUDA_HOME, on PATH or in /usr/local/cuda", False)
        return
    built = run("build", [python, "setup.py", "--quiet", "build_ext", "--inplace"], 240 * SCALE)
    yield built
    if not built["passed"]:
        return
    ask = "import fastchar; b = fastchar.backends(); print(b); raise SystemExit(not b.get('cuda'))"
    loaded = run("the library loads", [python, "-c", ask], 60 * SCALE)
    yield loaded
    if not loaded["passed"]:
        return
    # All groups at the same time: most of it is Python starting, and float64 on the CPU.
    together = 1 if one_process_at_a_time() else len(GROUPS)
    threads = max(1, (os.cpu_count() or 1) // together)
    options = ["-vv", "-rs", "--tb=short", "-p", "no:cacheprovider"]

    def tests(group: tuple[str, tuple[str, str]]) -> Entry:
        what, (file, selected) = group
        command = [python, "-m", "pytest", *options, file, "-k", selected]
        return run(what, command, min(A_GROUP * SCALE, left()), OMP_NUM_THREADS=str(threads))

    with ThreadPoolExecutor(together) as pool:
        yield from pool.map(tests, GROUPS.items())


def one_process_at_a_time() -> bool:
    """Whether the GPU refuses a second process while it serves one."""
    return "exclusive" in asked("compute_mode").lower()


def sanitizers(left: Callable[[], float]) -> Iterator[Entry]:
    """compute-sanitizer's tools. After what is timed: one may hang, and hold on to the GPU."""
    sanitizer = beside_nvcc("compute-sanitizer")
    for tool in ("memcheck", "racecheck", "initcheck"):
        if sanitizer is None:
            yield not_run(tool, "no compute-sanitizer on PATH or beside nvcc", None)
            continue
        limit = min(A_TOOL * SCALE, left())
        command = [sanitizer, "--tool", tool, *WATCH, sys.executable, "-m"]
        command += ["benchmarks.gpu.sanitize", tool, f"{time.time() + limit - A_PART:.0f}"]
        # Every tensor an allocation of its own: within one that torch's allocator shares out, an
        # access outside of a tensor is none outside of memory, and old contents are contents.
        check = run(tool, command, limit, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        if "Device not supported" in check["output"]:  # some virtual machines don't let it
            check = not_run(tool, "to compute-sanitizer this device is not supported", None)
        yield check


def profile(folder: Path, left: Callable[[], float]) -> Entry:
    """Nsight Compute's report of the kernels that the goals name: gpu_profile.ncu-rep, and as text
    what it says of each."""
    ncu = beside_nvcc("ncu")
    if ncu is None:
        return not_run("profile", "no ncu on PATH or beside nvcc", None)
    report = folder / "gpu_profile.ncu-rep"
    command = [ncu, *PROFILE, "--export", str(report), sys.executable, "-m"]
    check = run("profile", [*command, "benchmarks.gpu.profile"], min(A_PROFILE * SCALE, left()))
    if not check["passed"]:  # counters that a machine doesn't let anybody read, say
        return {**check, "passed": None}
    details = [ncu, "--import", str(report), "--page", "details"]
    text = subprocess.run(details, capture_output=True, text=True, errors="replace").stdout
    (folder / "gpu_profile.txt").write_text(text)
    return check


def benchmarks(
    left: Callable[[], float], file: Path, problems: list[str], keep: Callable[[Entry], None]
) -> None:
    """All groups' points, measured by `points` into `file`, which is started again where it
    fails or hangs; called again it goes on. `problems` get why. `keep` gets all that there are so
    far, now and then, and at the end."""
    for _ in range(STARTS):
        if left() < 15:
            break
        command = [*POINTS, str(file), str(left() - 10)]
        with tempfile.TemporaryFile("w+", errors="replace") as out:
            child = subprocess.Popen(
                command, cwd=ROOT, stdout=out, stderr=out, start_new_session=True
            )
            problem = watched(child, file, left, lambda: keep(measured(file, problems)))
            out.seek(0)
            if problem:
                problems.append(f"{problem}: {out.read()[-1500:]}")
        if not problem:
            break
    keep(measured(file, problems))


def measured(file: Path, problems: list[str]) -> Entry:
    """What `file` has of all groups."""
    groups: Entry = {name: [] for name in TIMED} | {"problems": problems}
    entries = done(file)
    for entry in entries.values():
        if not {"seconds", "forward", "error"} & entry.keys():
            entry["error"] = "no result: the process failed, hung or ran out of time"
        entry = {key: value for key, value in entry.items() if key != "number"}
        groups[entry.pop("group")].append(entry)
    groups["left_out"] = len(points()) - len(entries)
    for name in TIMED:
        groups[name].sort(key=lambda entry: [str(v).zfill(8) for v in entry["point"].values()])
    return groups


def watched(
    child: "subprocess.Popen[Any]",
    file: Path,
    left: Callable[[], float],
    progress: Callable[[], None],
) -> str:
    """Waits while the child makes progress, and says so now and then; what went wrong, or
    nothing."""
    size, since = -1, time.monotonic()
    said = since
    try:
        while child.poll() is None:
            time.sleep(0.5)
            now = file.stat().st_size if file.exists() else 0
            if now != size:
                size, since = now, time.monotonic()
            if left() <= 0:
                return ""  # the point in progress is lost
            if time.monotonic() - since > A_POINT:
                return f"hung for {A_POINT} s"
            if time.monotonic() - said > SAVED_EVERY:
                said = time.monotonic()
                progress()
        return "" if child.returncode == 0 else f"exit code {child.returncode}"
    finally:
        wait_or_kill(child, 0)


def asked(query: str) -> str:
    """nvidia-smi's answer for the first GPU."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TO_DIE)
        return done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def nvcc_version() -> str:
    try:
        command = [toolkit.find_nvcc() or "nvcc", "--version"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return re.findall(r"\bV(\d+[.\d]*)", text)[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def save(result: Entry, folder: Path) -> None:
    """Beside, then renamed: whenever this is killed, what was saved before is whole.

    By hand, since fastchar is imported by nothing here: it may not be built yet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        RESULT: json.dumps(result, indent=1) + "\n",
        "gpu_check.md": markdown(result),
    }
    for name, text in texts.items():
        (folder / f"{name}.new").write_text(text)
        (folder / f"{name}.new").replace(folder / name)


def main() -> int:
    if not torch.cuda.is_available():
        print("gpu_check needs a GPU and a torch with CUDA", file=sys.stderr)
        return 2
    start = time.monotonic()

    def left() -> float:
        return SECONDS - (time.monotonic() - start)

    gpu = torch.cuda.get_device_name()
    folder = Path(os.environ.get("OUT") or ROOT / "benchmarks" / "results" / slug(gpu)).resolve()
    result: Entry = {
        "gpu": gpu,
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "nvcc": nvcc_version(),
        "driver": asked("driver_version"),
        "checks": [],
    }

    def keep(groups: Entry) -> None:
        result["benchmarks"] = groups
        save(result, folder)

    for name in CHOICES:
        os.environ.pop(name, None)
    os.environ["TORCH_CUDA_ARCH_LIST"] = "{}.{}".format(*torch.cuda.get_device_capability())

    def note(check: Entry) -> None:
        print(f"{left():.0f} s left. {check['what']}: {check['summary']}", flush=True)
        if check["passed"] is False:
            print(f"FAILED: {check['command']}\n{check['output'][-6000:]}", flush=True)
        result["checks"].append(check)
        save(result, folder)

    save(result, folder)  # that it was begun, should the build be the end of it
    for check in checks(lambda: left() - FOR_BENCHMARKS):
        note(check)
    if all(check["passed"] for check in result["checks"][:2]):
        problems: list[str] = []
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "points.jsonl"
            spare = max(0.0, min(FOR_SANITIZERS, left() - FOR_BENCHMARKS))
            benchmarks(lambda: left() - spare, file, problems, keep)
            for check in sanitizers(left):
                note(check)
            note(profile(folder, left))
            benchmarks(left, file, problems, keep)
    print(markdown(result))
    return 1 if any(check["passed"] is False for check in result["checks"]) else 0


if __name__ == "__main__":
    raise SystemExit(main())
