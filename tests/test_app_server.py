"""Who may drive the app: no other site, and with a token nobody else on the machine."""

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from workbench.app import first_paint, server
from workbench.cli import main

TOKEN = "a-token-of-a-test"
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    """A server without a token, and one with."""
    found, running = {}, []
    for name in ("open", "token"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            found[name] = probe.getsockname()[1]
        environment = {**os.environ, server.TOKEN: TOKEN} if name == "token" else dict(os.environ)
        command = [sys.executable, "-m", "workbench.app.server", "--port", str(found[name])]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
    try:
        for port in found.values():
            deadline = time.monotonic() + 60
            while True:
                try:
                    ask(port, "/_stcore/health")
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
        yield found
    finally:
        for process in running:
            process.terminate()
            process.wait()


def ask(port: int, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def stream(port: int, host: str, **headers: str) -> int:
    given = {**UPGRADE, "Host": host, "Origin": f"http://{host}", **headers}
    return ask(port, "/_stcore/stream", **given).status


def test_another_name_for_this_machine_is_refused(ports) -> None:
    port = ports["open"]
    assert ask(port, "/").status == 200
    assert ask(port, "/", Host=f"evil.example:{port}").status == 400
    assert stream(port, f"127.0.0.1:{port}") == 101
    assert stream(port, f"localhost:{port}") == 101
    assert stream(port, f"evil.example:{port}") == 400
    assert stream(port, f"127.0.0.1:{port}", Origin="http://evil.example") == 403


def test_the_first_page_comes_with_stored_fields_and_a_chosen_one_without(ports) -> None:
    answer = ask(ports["open"], "/", **{"Accept-Encoding": "gzip", "If-None-Match": '"1"'})
    text = answer.read()
    assert len(text) == int(answer.headers["Content-Length"])
    assert text.count(b'src="data:image/') == 6 and text.count(b'id="first-paint"') == 1
    for name in (b"vmamba_nano", b"vim_nano", b"resnet_nano"):
        assert b"<b>" + name + b"</b>" in text
    for path in ("/?model=vim_nano", "/story"):
        assert b"first-paint" not in ask(ports["open"], path).read()


def test_other_weights_or_images_begin_with_something_else(monkeypatch) -> None:
    assert "vim_nano" in first_paint.page()
    monkeypatch.setenv("VSSM_IMAGES", "anything")
    assert first_paint.page() == ""


def test_the_link_with_the_token_opens_the_app_and_the_address_leaves_it_out(ports) -> None:
    port = ports["token"]
    assert ask(port, "/").status == 403
    assert ask(port, "/?token=wrong").status == 403
    assert stream(port, f"127.0.0.1:{port}") == 403
    opened = ask(port, f"/?model=vim_nano&token={TOKEN}")
    assert opened.status == 303 and opened.headers["location"] == "/?model=vim_nano"
    cookie = opened.headers["set-cookie"].partition(";")[0]
    assert "HttpOnly" in opened.headers["set-cookie"]
    assert ask(port, "/?model=vim_nano", Cookie=cookie).status == 200
    assert stream(port, f"127.0.0.1:{port}", Cookie=cookie) == 101
    assert ask(port, f"//evil.example/?token={TOKEN}").headers["location"] == "/evil.example/"


def test_another_address_needs_a_token(capsys) -> None:
    assert main(["app", "--host", "0.0.0.0"]) == 2
    assert "give --token" in capsys.readouterr().err
