"""The help of every command comes at once: no library that takes seconds is imported for it."""

from __future__ import annotations

import json
import subprocess
import sys

from contrapose.cli.main import COMMANDS
from contrapose.methods import METHODS

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "scipy", "matplotlib")
SCRIPT = """
import contextlib, io, json, sys
from contrapose.cli.main import run

commands, heavy = json.loads(sys.argv[1])
imported = {}
for command in commands:
    help = io.StringIO()
    with contextlib.redirect_stdout(help), contextlib.suppress(SystemExit):
        run([*command.split(), "--help"])
    assert "usage" in help.getvalue(), command
    imported[command] = [name for name in heavy if name in sys.modules]
print(json.dumps(imported))
"""


def test_no_help_imports_a_library_that_takes_seconds() -> None:
    commands = [*COMMANDS, *(f"align {name}" for name in METHODS)]
    asked = json.dumps([commands, HEAVY])
    result = subprocess.run([sys.executable, "-c", SCRIPT, asked], capture_output=True, text=True, check=True)
    imported = json.loads(result.stdout)
    assert list(imported) == commands
    # one process for all: the first command that is not light is the culprit, those after it inherit its imports
    assert {command: names for command, names in imported.items() if names} == {}
