"""`vssm app`: the app in the browser, on this machine unless it is told otherwise."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from dataclasses import fields
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from workbench.cli.options import add_fields, read_fields
from workbench.study import Study

_OPTIONS = {"repo", "adapter", "model", "device"}
"""Of those that every run has."""


def parser() -> ArgumentParser:
    """Its options."""
    made = ArgumentParser(description="Open the app in the browser.")
    made.add_argument("--port", type=int, default=8501, help="port on this machine")
    made.add_argument(
        "--token",
        action="store_true",
        help="ask for a token, which the opened link carries: for machines with other users",
    )
    made.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; others than this need --token"
    )
    made.add_argument("--weights", default=None, help="folder with checkpoints to choose from")
    made.add_argument("--results", default=None, help="folder with result files to show")
    made.add_argument(
        "--images", default=None, help="folder, pack or file of images to choose from"
    )
    add_fields(made, Study, skip={field.name for field in fields(Study)} - _OPTIONS)
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
    if args.images is not None:
        from workbench.images import open_images

        open_images(args.images)
        environment["VSSM_IMAGES"] = str(Path(args.images).expanduser().resolve())
    if args.device is not None:
        from workbench.devices import usable

        environment["VSSM_DEVICE"] = str(usable(args.device))
    study = read_fields(args, Study)
    if study.repo is not None or study.adapter is not None:
        study.check_models()
        from workbench import external
        from workbench.app import repository

        external.check(study.repo, study.adapter, study.model)
        environment |= repository.told(study.repo, study.adapter, study.model)
    elif study.model:
        raise ValueError(
            "--model chooses among the models of a repository: give --repo with it; those of the "
            "workbench are chosen on the page"
        )
    from workbench.app.server import LOCAL, TOKEN, new_token

    if args.host not in LOCAL and not args.token:
        raise ValueError(
            f"--host {args.host} lets other machines in: give --token, so that only who has the "
            "link can use the app"
        )
    _check_port(args.port)
    environment.pop(TOKEN, None)
    link = f"http://{_reached(args.host)}:{args.port}"
    if args.token:
        environment[TOKEN] = new_token()
        link += f"/?token={environment[TOKEN]}"
    command = [sys.executable, "-m", "workbench.app.server"]
    command += ["--address", args.host, "--port", str(args.port)]
    process = subprocess.Popen(command, env=environment)
    try:
        if _answers(_reached(args.host), args.port, process):
            print(f"vssm: the app is at {link}", file=sys.stderr)
            if not args.headless:
                webbrowser.open(link)
        return process.wait()
    except KeyboardInterrupt:
        process.wait()  # it got the same Ctrl-C
        return 0


def _reached(host: str) -> str:
    """A name by which this machine reaches a server that listens at an address."""
    return "127.0.0.1" if host == "0.0.0.0" else host


def _answers(host: str, port: int, process: subprocess.Popen, patience: float = 60.0) -> bool:
    """Whether the app's server answers before it ends or `patience` seconds pass."""
    end = time.monotonic() + patience
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://{host}:{port}/_stcore/health", timeout=1).close()
            return True
        except urllib.error.HTTPError:  # it answers, and asks for the token
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
