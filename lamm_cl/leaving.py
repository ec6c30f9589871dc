"""How a process of ours ends: at once, when all is flushed and closed."""

import atexit
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn


def at_once(status: int) -> NoReturn:
    """Threads have ended, what was registered for the end is done, and what was said is out: then without taking thousands of
    modules apart, which takes Python over a second where torch is among them. Under a profiler or a debugger, which want
    to see the end, it is the usual one."""
    if sys.gettrace() or sys.getprofile():
        sys.exit(status)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # gone, and told where that matters
            if stream is not None:
                stream.flush()
    os._exit(status)
