"""What a process that measures wants of its environment; the command line and the app ask for it,
the library never does.
"""

import os


def prepare() -> None:
    """Let threads of OpenMP wait shortly; to be called before torch is imported.

    Threads that go on spinning after each operation take the cores from everything else on a busy
    machine (a browser is enough); a short wait costs an idle one little. What the environment
    already says stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
