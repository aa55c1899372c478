"""`python -m fetcher` and the installed command `fetcher`."""

import contextlib
import gc
import os
import sys
from typing import NoReturn

from fetcher import signals


def main() -> NoReturn:
    """Run the command line in a Python whose file names are UTF-8, and end the process.

    In a locale that is not UTF-8 Python could not name a file in Arabic. There it is
    started anew in its UTF-8 mode (PEP 540), with the terminal's own encoding kept.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        os.environ.setdefault("PYTHONIOENCODING", f"{encoding}:backslashreplace")
        os.execv(sys.executable, [sys.executable, "-m", "fetcher", *sys.argv[1:]])  # noqa: S606
    signals.remember()
    gc.disable()  # nothing that is imported is garbage: to look for it costs 7 ms of a start
    from fetcher import cli  # noqa: PLC0415 - a signal may come while it is imported

    _leave(cli.main())


def _leave(status: int) -> NoReturn:
    """End the process at once: everything is closed, and to take 500 modules apart costs 27 ms."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or broken
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
