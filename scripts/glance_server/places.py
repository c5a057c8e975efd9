"""Where the parts of the server are, and where what is made once goes."""

from __future__ import annotations

from pathlib import Path

PARTS = Path(__file__).resolve().parent
BUILD = PARTS.parent.parent / "build" / "glance-server"
VENV = BUILD / "venv"
TEMPLATE = BUILD / "template"
PYTHON = "/usr/bin/python3"
