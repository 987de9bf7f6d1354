"""``fastchar env``: what a bug report needs."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    app.command("env", help="Versions, and which kernels run on this machine.")(env)


def env() -> None:
    import importlib.metadata
    import os
    import platform

    import torch

    import fastchar

    rows: list[tuple[str, object]] = [
        ("fastchar", fastchar.__version__),
        ("python", platform.python_version()),
        ("platform", platform.platform()),
        ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors"),
    ]
    for name, value in fastchar.backends().items():
        if isinstance(value, dict):
            rows += [(f"{name} {key}", part) for key, part in value.items()]
        else:
            rows.append((name, value))
    for package in ("lightning", "rapidfuzz", "typer", "safetensors"):
        try:
            rows.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            rows.append((package, "missing"))
    for name, value in sorted(os.environ.items()):
        if name.startswith("FASTCHAR_"):
            rows.append((name, value))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        typer.echo(f"{name:{width}}  {text or '-'}")
