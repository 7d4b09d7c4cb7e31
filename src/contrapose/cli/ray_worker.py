"""A command as a worker on Ray: run where its process is, and shown where all workers were started."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import TextIOBase

from contrapose.cli.fixes import is_of_one, message_of
from contrapose.cli.main import prepare, run
from contrapose.cli.progress import Bar
from contrapose.on_ray import HowFar, News, Remark
from contrapose.processes import rank


def run_as_worker(arguments: list[str], tell: Callable[[News], None]) -> str | None:
    """Run one command line, telling its news; returns in one line what the user has to mend, if anything.

    Of several workers the first one's lines are told, since all come to the same.
    """
    prepare()
    Bar.listener = lambda title, done, total: tell(HowFar(title, done, total))
    try:
        with redirect_stdout(_Told(tell, "stdout")), redirect_stderr(_Told(tell, "stderr")):
            run(arguments)
    except Exception as error:
        message = message_of(error)
        if message is None:
            raise
        return f"on {socket.gethostname()}: {message}" if is_of_one(error) else message
    return None


class _Told(TextIOBase):
    """A stream of which each line is told, once over all workers."""

    def __init__(self, tell: Callable[[News], None], name: str):
        self._tell = tell
        self._name = name
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines if rank() == 0 else ():
            self._tell(Remark(line, self._name))
        return len(text)
