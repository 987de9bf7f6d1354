"""What benchmarks/gpu/check.py can promise without a GPU: a report, and a clear refusal."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_gpu_report import MADE_UP

from benchmarks.gpu import check as gpu_check
from benchmarks.gpu import points as gpu_points


def test_checks_report_failures():
    """A command that fails is a failed check with its output; without time it is not run."""
    command = [sys.executable, "-c", "print('1 failed'); raise SystemExit(3)"]
    failed = gpu_check.run("it", command, 60)
    assert not failed["passed"]
    assert failed["summary"] == "1 failed"
    assert failed["output"] == "1 failed\n"
    sanitizer = "print('2 of 3 parts'); print('========= ERROR SUMMARY: 0 errors')"
    passed = gpu_check.run("it", [sys.executable, "-c", sanitizer], 60)
    assert passed["summary"] == "2 of 3 parts, ERROR SUMMARY: 0 errors"
    for line in ("9 skipped in 1.0s", "1 error in 1.0s"):
        done = gpu_check.run("it", [sys.executable, "-c", f"print('=== {line} ===')"], 60)
        assert done["summary"] == line
    crashed = gpu_check.run("it", [sys.executable, "-c", "import os; os._exit(7)"], 60)
    assert (crashed["passed"], crashed["summary"]) == (False, "exit code 7")
    absent = gpu_check.run("it", ["/nowhere/tool"], 60)
    assert (absent["passed"], absent["summary"]) == (False, "could not be started")
    assert "/nowhere/tool" in absent["output"]
    late = gpu_check.run("it", command, 4)
    assert (late["passed"], late["seconds"]) == (False, 0)
    assert "no time left" in late["summary"]


def test_both_ends_of_a_long_output_are_kept():
    output = "first error" + 100_000 * "." + "last line"
    kept = gpu_check.both_ends(output)
    assert kept.startswith("first error")
    assert kept.endswith("last line")
    assert 2 * gpu_check.KEPT < len(kept) < 2 * gpu_check.KEPT + 50
    assert gpu_check.both_ends("short") == "short"


def test_a_device_that_the_sanitizers_refuse_is_no_failure(monkeypatch):
    """And each runs its tool, over our kernels alone."""
    ran = []

    def run(what, command, seconds, **more):
        ran.append(command)
        refused = command[0] == "compute-sanitizer"
        output = "========= Error: Device not supported." if refused else ""
        return {"what": what, "passed": not refused, "output": output}

    monkeypatch.setattr(gpu_check, "run", run)
    monkeypatch.setattr(gpu_check, "beside_nvcc", lambda tool: tool)
    checks = list(gpu_check.sanitizers(lambda: 100.0))
    assert [check["passed"] for check in checks] == [None] * 3
    for command, tool in zip(ran, ("memcheck", "racecheck", "initcheck"), strict=True):
        assert command[1:3] == ["--tool", tool]
        assert command[-2] == tool
        assert time.time() < float(command[-1]) < time.time() + gpu_check.A_TOOL * gpu_check.SCALE
        assert command[3:5] == ["--kernel-name", "kns=fastchar"]


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for a process in /proc")
def test_a_check_that_hangs_is_killed_with_its_children(tmp_path, monkeypatch):
    """And what it printed is kept: the test that hangs is the last one that pytest -vv names."""
    pid = tmp_path / "child"
    child = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); "
    parent = "import subprocess, sys; print('started'); subprocess.run([sys.executable, '-c', "
    command = [sys.executable, "-c", f"{parent}{child + 'time.sleep(3600)'!r}])"]
    wait_or_kill = gpu_check.wait_or_kill

    def late(process, _):
        """Its time is up as soon as the child runs, however long the machine takes to start it."""
        while not (pid.exists() and pid.read_text()):
            assert process.poll() is None
            time.sleep(0.01)
        return wait_or_kill(process, 0.1)

    monkeypatch.setattr(gpu_check, "wait_or_kill", late)
    start = time.monotonic()
    hung = gpu_check.run("it", command, 8)
    assert time.monotonic() - start < 3600
    assert not hung["passed"]
    assert hung["summary"] == "not finished after 8 s"
    assert hung["output"] == "started\n"
    status = Path("/proc", pid.read_text(), "stat")
    for _ in range(600):  # dead, and perhaps not buried
        try:
            if status.read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except OSError:  # buried
            return
        time.sleep(0.1)
    pytest.fail("the child goes on")


# Fails at its first point, hangs at its second when started again, measures a third; then its time
# is up. Each number is a point of the grid.
WORKER = """
import json, sys, time
file = open(sys.argv[1], "a+")
file.seek(0)
number = len({json.loads(line)["number"] for line in file})
def write(**more):
    entry = {"number": number, "group": "embedding_backward", "point": {"V": number}, **more}
    print(json.dumps(entry), file=file, flush=True)
write()
if number == 0:
    raise SystemExit("out of luck")
if number == 1:
    open(sys.argv[1] + ".hangs", "w").close()
    time.sleep(3600)
write(seconds={"fastchar": 1})
"""


def test_benchmarks_go_on_after_a_failure(tmp_path, monkeypatch):
    """A point whose process fails or hangs has no result; the others have theirs."""
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.setattr(gpu_check, "POINTS", [sys.executable, str(tmp_path / "worker.py")])
    watched, started, passed, kept = gpu_check.watched, [], [0.0], []

    def counted(child, *rest):
        started.append(child)
        return watched(child, *rest)

    def sleep(_):
        """Time passes while the second process hangs, not while one starts, which may be slow."""
        time.sleep(0.02)
        passed[0] += 5.0 * (len(started) == 2 and (tmp_path / "points.hangs").exists())

    monkeypatch.setattr(gpu_check, "watched", counted)
    clock = SimpleNamespace(sleep=sleep, monotonic=lambda: passed[0])
    monkeypatch.setattr(gpu_check, "time", clock)
    gpu_check.benchmarks(lambda: 100.0, tmp_path / "points", [], kept.append)
    assert [len(groups["embedding_backward"]) for groups in kept[:-1]] == [2] * (len(kept) - 1)
    assert len(kept) > 2  # while the second one hangs: whenever this is killed, some are there
    groups = kept[-1]
    failed, hung, measured = groups["embedding_backward"]
    assert "no result" in failed["error"]
    assert "no result" in hung["error"]
    assert measured == {"point": {"V": 2}, "seconds": {"fastchar": 1}}
    assert groups["left_out"] == len(gpu_points.points()) - 3
    assert ["exit code 1" in groups["problems"][0], "hung" in groups["problems"][1]] == [True] * 2
    assert "out of luck" in groups["problems"][0]


@pytest.mark.parametrize("mode", ["Default", "Exclusive_Process"])
def test_tests_run_at_the_same_time(mode, monkeypatch):
    """Unless the GPU serves one process at a time; they are reported in their order, and a build
    that fails is the end."""
    running, most, fails = [], [0], []

    def run(what, command, seconds, **more):
        running.append(what)
        most[0] = max(most[0], len(running))
        time.sleep(0.05 if what in gpu_check.GROUPS else 0)
        running.remove(what)
        return {"what": what, "passed": what not in fails, "threads": more.get("OMP_NUM_THREADS")}

    monkeypatch.setattr(gpu_check, "run", run)
    monkeypatch.setattr(gpu_check, "asked", lambda query: mode)
    monkeypatch.setattr(gpu_check.toolkit, "find_nvcc", lambda: "nvcc")
    monkeypatch.setattr(gpu_check.os, "cpu_count", lambda: 16)
    found = list(gpu_check.checks(lambda: 100.0))
    assert [check["what"] for check in found[2:]] == list(gpu_check.GROUPS)
    assert (most[0] > 1) == (mode == "Default")
    assert found[2]["threads"] == ("2" if mode == "Default" else "16")
    fails.append("build")
    assert [check["what"] for check in gpu_check.checks(lambda: 100.0)] == ["build"]


def test_a_profile_that_cannot_be_made_is_no_failure(monkeypatch, tmp_path):
    """Without the tool, or where it is not allowed to read counters; else its text is kept,
    whatever its encoding."""
    monkeypatch.setattr(gpu_check, "beside_nvcc", lambda tool: None)
    assert gpu_check.profile(tmp_path, lambda: 100.0)["passed"] is None
    tool = tmp_path / "ncu"
    monkeypatch.setattr(gpu_check, "beside_nvcc", lambda _: str(tool))
    for code, passed in ((1, None), (0, True)):
        tool.write_text(f"#!/bin/sh\necho $*\nprintf '\\377'\nexit {code}\n")
        tool.chmod(0o755)
        assert gpu_check.profile(tmp_path, lambda: 100.0)["passed"] is passed
    text = (tmp_path / "gpu_profile.txt").read_text()
    assert text.startswith(f"--import {tmp_path / 'gpu_profile.ncu-rep'}")


def test_a_driver_that_does_not_answer_is_not_waited_for(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexec sleep 3600\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(gpu_check, "TO_DIE", 0.1)
    assert gpu_check.asked("driver_version") == "unknown"


@pytest.fixture
def seen_gpu(tmp_path, monkeypatch):
    """A machine with a GPU, by what torch says of it; reports go to tmp_path."""
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "No GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    # As containers have it: for every GPU, which takes longer to compile than there is time.
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 8.6 9.0 10.0 12.0+PTX")
    for name in gpu_check.CHOICES:
        monkeypatch.setenv(name, "steps")


def test_the_report_is_written_after_every_part(seen_gpu, tmp_path, monkeypatch):
    """An end in the middle leaves what was found before, an end of the first what machine it is; a
    library that doesn't load is the end."""
    checks = MADE_UP["checks"]

    def run(_):
        found = json.loads((tmp_path / "gpu_check.json").read_text())
        assert (found["gpu"], found["checks"]) == ("No GPU", [])
        for check in checks:
            yield check
            assert (tmp_path / "gpu_check.md").exists()
            found = json.loads((tmp_path / "gpu_check.json").read_text())
            assert found["checks"][-1] == check

    monkeypatch.setattr(gpu_check, "checks", run)
    monkeypatch.setattr(gpu_check, "benchmarks", lambda *_: pytest.fail("nothing to measure"))
    assert gpu_check.main() == 1
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "9.0"
    assert not os.environ.keys() & set(gpu_check.CHOICES)


def test_tools_are_found_beside_nvcc(monkeypatch, tmp_path):
    """compute-sanitizer in CUDA_HOME's bin, its own folder, or nowhere: then it says so."""
    for place in ("bin", "compute-sanitizer"):
        home = tmp_path / place / "cuda"
        nvcc, tool = home / "bin" / "nvcc", home / place / "compute-sanitizer"
        for file in (nvcc, tool):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o755)
        monkeypatch.setenv("CUDA_HOME", str(home))
        monkeypatch.setenv("PATH", "/nowhere")
        assert gpu_check.beside_nvcc("compute-sanitizer") == str(tool)
    monkeypatch.setattr(gpu_check, "beside_nvcc", lambda tool: None)
    passed = {"passed": True, "summary": "", "output": "", "seconds": 1.0, "command": ""}
    monkeypatch.setattr(gpu_check, "run", lambda what, *_, **__: {"what": what, **passed})
    found = {check["what"]: check for check in gpu_check.sanitizers(lambda: 100.0)}
    assert found["racecheck"]["passed"] is None
    assert "no compute-sanitizer" in found["racecheck"]["summary"]
    monkeypatch.setattr(gpu_check.toolkit, "find_nvcc", lambda: None)
    (only,) = gpu_check.checks(lambda: 100.0)
    assert only["passed"] is False
    assert "no nvcc" in only["summary"]


@pytest.mark.parametrize(
    ("after_the_tests", "spared"), [(400.0, 189.0), (300.0, 138.0), (90.0, 0.0)]
)
def test_what_is_timed_comes_before_the_sanitizers(
    after_the_tests, spared, seen_gpu, tmp_path, monkeypatch
):
    """They may hang, and hold on to the GPU. What they leave is for more points, from the first
    ones' file on."""
    now, order, files = [0.0], [], []

    def checks(left):
        assert left() == 540 - 162
        now[0] = 540 - after_the_tests
        yield from MADE_UP["checks"][:1] * 2

    def sanitizers(left):
        order.append(("sanitizers", left()))
        now[0] += 20
        yield MADE_UP["checks"][1]

    def benchmarks(left, file, problems, keep):
        order.append(("benchmarks", left()))
        files.append((file, problems))
        now[0] += left() if len(files) == 1 else 0

    for name, value in (("SECONDS", 540), ("FOR_BENCHMARKS", 162.0), ("FOR_SANITIZERS", 189.0)):
        monkeypatch.setattr(gpu_check, name, value)

    def profile(folder, left):
        order.append(("profile", left()))
        return {**MADE_UP["checks"][0], "what": "profile"}

    for part in (checks, sanitizers, benchmarks, profile):
        monkeypatch.setattr(gpu_check, part.__name__, part)
    monkeypatch.setattr(gpu_check, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert gpu_check.main() == 1
    assert order == [
        ("benchmarks", after_the_tests - spared),
        ("sanitizers", spared),
        ("profile", spared - 20),
        ("benchmarks", spared - 20),
    ]
    assert files[0] == files[1]
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [check["passed"] for check in found["checks"]] == [True, True, False, True]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_takes_the_python_that_sees_a_gpu(tmp_path):
    """Not a virtual environment that was left without torch, nor the first python3."""
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    stubs = {venv / "python": "exit 1", tmp_path / "python3": "exit 1"}
    stubs[tmp_path / "python"] = 'test "$1" = -c || echo "ran $*"'
    for file, line in stubs.items():
        file.write_text(f"#!/bin/sh\n{line}\n")
        file.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["make", "gpu-check", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=gpu_check.ROOT, env=environment
    )
    assert "ran -m benchmarks.gpu.check" in done.stdout
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=gpu_check.ROOT, env=environment
    )
    assert done.returncode == 2
    assert "no torch that sees a GPU" in done.stderr


def test_every_parity_test_is_in_one_group():
    """gpu_check runs them in groups, by file and by what their names contain."""
    files = sorted({file for file, _ in gpu_check.GROUPS.values()})
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", *files]
    options = ["-p", "no:cacheprovider", "-o", "addopts="]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=gpu_check.ROOT)
    tests = [line.partition("::")[::2] for line in done.stdout.splitlines() if "::" in line]
    assert len(tests) > 100
    assert sorted({file for file, _ in tests}) == files

    def selects(expression: str, name: str) -> bool:
        words = re.sub(r"(?!(?:and|or|not)\b)\b\w+", lambda m: str(m[0] in name), expression)
        return bool(eval(words))

    for file, name in tests:
        groups = [
            what
            for what, (where, expression) in gpu_check.GROUPS.items()
            if file == where and (not expression or selects(expression, name))
        ]
        assert len(groups) == 1, (name, groups)


@pytest.mark.native
def test_it_needs_only_torch_and_the_test_tools():
    """What it imports, the tests that it runs included, is there on the GPU machine of record."""
    absent = "lightning matplotlib numpy optuna pandas rapidfuzz rich safetensors scipy stanza"
    absent += " tensorboard torchmetrics typer yaml expecttest"
    code = f"""
import sys
sys.modules.update(dict.fromkeys({absent.split()!r}))  # None: an import of it fails
sys.path.insert(0, "tests")
import benchmarks.gpu.check, benchmarks.gpu.profile, benchmarks.gpu.sanitize
import conftest, test_cuda_parity, test_cuda_launch, test_cuda_build
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=gpu_check.ROOT)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu.check"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "needs a GPU" in done.stderr
