#!/usr/bin/env python3
"""Runs the README's first commands on the tiny guest and draws the terminal: docs/demo.svg."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = [
    "cowshed image pull build/guest/tiny.qcow2 --name tiny",
    "cowshed run tiny --name web --memory 256M --disk 10G -p 8080:80",
    "cowshed log web -f --until 'cowshed-guest: up'",
    "curl -s http://127.0.0.1:8080/",
    "cowshed ls",
    "cowshed show web",
    "cowshed rm web --yes",
]
LINES = 14  # of the console's log


def main() -> None:
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    with tempfile.TemporaryDirectory(prefix="cowshed-") as state:
        place = str(Path(sys.executable).parent)
        env = {**os.environ, "COWSHED_HOST_STATE": state, "PATH": f"{place}:{os.environ['PATH']}"}
        for command in COMMANDS:
            console.print(Text("$ ", style="bold green") + Text(command, style="bold"))
            done = subprocess.run(
                shlex.split(command), cwd=ROOT, env=env, capture_output=True, text=True, check=True, errors="replace"
            )
            lines = [line.rstrip() for line in done.stdout.replace("\r", "").replace(state, "~/cowshed").splitlines()]
            shown = [line for line in lines if line and "\x1b" not in line]
            if len(shown) > LINES:
                shown = [*shown[: LINES - 4], "...", *shown[-3:]]
            for line in shown:
                console.print(Text(line))
    console.save_svg(str(ROOT / "docs" / "demo.svg"), title="cowshed")


if __name__ == "__main__":
    main()
