"""`vssm app`: the app in the browser, on this machine only."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from dataclasses import fields
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from workbench.cli.options import add_fields
from workbench.study import Study

REPOSITORY = Path(__file__).parents[2]


def parser() -> ArgumentParser:
    """Its options."""
    made = ArgumentParser(description="Open the app in the browser.")
    made.add_argument("--port", type=int, default=8501, help="port on this machine")
    made.add_argument("--weights", default=None, help="folder with checkpoints to choose from")
    made.add_argument("--results", default=None, help="folder with result files to show")
    add_fields(made, Study, skip={field.name for field in fields(Study)} - {"repo", "adapter"})
    made.add_argument("--headless", action="store_true", help="do not open a browser window")
    return made


def command(args: Namespace) -> int:
    """Start the server and open the page."""
    environment = dict(os.environ)
    for option, variable in (("weights", "VSSM_WEIGHTS"), ("results", "VSSM_RESULTS")):
        folder = args[option]
        if folder is not None:
            if not Path(folder).is_dir():
                raise ValueError(f"--{option} {folder} is not a folder")
            environment[variable] = str(Path(folder).resolve())
    if args.repo is not None or args.adapter is not None:
        Study(repo=args.repo, adapter=args.adapter).check_models()
        environment["VSSM_REPO"] = str(Path(args.repo).resolve())
        environment["VSSM_ADAPTER"] = str(Path(args.adapter).resolve())
    _check_port(args.port)
    command = [sys.executable, "-m", "streamlit", "run", str(REPOSITORY / "app.py")]
    command += ["--server.address", "127.0.0.1", "--server.port", str(args.port)]
    # Headless, because Streamlit otherwise asks for an e-mail address before the first start.
    command += ["--server.headless", "true", "--browser.gatherUsageStats", "false"]
    process = subprocess.Popen(command, env=environment, cwd=REPOSITORY)
    try:
        if not args.headless and _answers(args.port, process):
            webbrowser.open(f"http://127.0.0.1:{args.port}")
        return process.wait()
    except KeyboardInterrupt:
        process.wait()  # it got the same Ctrl-C
        return 0


def _answers(port: int, process: subprocess.Popen, patience: float = 60.0) -> bool:
    """Whether the app's server answers before it ends or `patience` seconds pass."""
    end = time.monotonic() + patience
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1).close()
            return True
        except OSError:
            time.sleep(0.2)
    return False


def _check_port(port: int) -> None:
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} is not between 1 and 65535")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise ValueError(f"port {port} is in use on this machine; choose another with --port")
