"""Run the corpus: `python -m corpus FOLDER SEED` in tests/. Prints one JSON line for each case.

A process of its own, so that its memory and what it executes can be watched.
"""

import contextlib
import io
import itertools
import json
import resource
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from corpus import images, results, weights, words
from corpus.case import Case

HANG = 10
EXECUTED = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork")


class Hang(BaseException):
    """No Exception, so that nothing takes it for a damaged file."""


def stop(*_: object) -> None:
    raise Hang


def every(folder: Path, seed: int) -> Iterator[Case]:
    places = {name: folder / name for name in ("weights", "images", "results", "words")}
    for place in places.values():
        place.mkdir()
    return itertools.chain(
        weights.cases(places["weights"], seed, folder / "marker"),
        images.cases(places["images"], seed),
        results.cases(places["results"], seed),
        words.cases(places["words"], seed),
    )


def outcome(case: Case) -> dict:
    """What became of a case: "right", "refused", "wrong", "hang" or "traceback"."""
    said = ""
    printed = io.StringIO()
    signal.alarm(HANG)
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
            found = "right" if case.run() else "wrong"
    except Hang:
        found = "hang"
    except (ValueError, OSError, MemoryError) as error:
        found, said = "refused", str(error)
        if said == "refused":
            said = printed.getvalue().strip().splitlines()[-1]
            if "this should not have happened" in said or "Traceback" in printed.getvalue():
                found = "traceback"
    except SystemExit as error:
        found = "refused" if error.code == 2 else "traceback"
        said = "usage"
    except BaseException as error:
        found, said = "traceback", f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return {"found": found, "said": said}


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    executed: list[str] = []
    watching = False

    def watch(event: str, arguments: tuple) -> None:
        # a result names the revision it was made with
        if watching and event in EXECUTED and arguments[0] != "git":
            executed.append(f"{event} {arguments!r:.100}")

    sys.addaudithook(watch)
    signal.signal(signal.SIGALRM, stop)
    folder = Path(sys.argv[1])
    for case in every(folder, int(sys.argv[2])):
        case.make()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        executed.clear()
        watching, start = True, time.monotonic()
        told = outcome(case)
        watching = False
        told |= {
            "name": case.name,
            "good": case.good,
            "seconds": round(time.monotonic() - start, 2),
            "megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024,
            "executed": list(executed),
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
