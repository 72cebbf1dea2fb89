"""The server of the app, `python -m workbench.app.server`; `vssm app` starts it.

A page of the browser may drive any server that the machine reaches: each request says by which name
it came (against names that another site made point here), and on a machine with other users a token
says who may.
"""

import argparse
import gc
import hmac
import os
import secrets
import socket
import threading
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import streamlit as st
from starlette.datastructures import URL
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from workbench.process import prepare

LOCAL = ("localhost", "127.0.0.1")
TOKEN = "VSSM_TOKEN"
"""The environment's name for the token: a command line is seen by everybody on the machine."""


class AskForToken:
    """Lets those in who opened the link with the token, or have its cookie from then."""

    def __init__(self, app: ASGIApp, token: str, cookie: str) -> None:
        self.app, self.token, self.cookie = app, token, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        if self._right(request.cookies.get(self.cookie)):
            await self.app(scope, receive, send)
            return
        answer: Response = PlainTextResponse(
            "This app asks for a token: open the link that `vssm app` printed.\n", 403
        )
        if scope["type"] == "http" and self._right(request.query_params.get("token")):
            answer = RedirectResponse(_without_token(request.url), 303)
            answer.set_cookie(self.cookie, self.token, httponly=True, samesite="lax")
            answer.headers["referrer-policy"] = "no-referrer"
        await answer(scope, receive, send)

    def _right(self, given: str | None) -> bool:
        return given is not None and hmac.compare_digest(given.encode(), self.token.encode())


def _without_token(url: URL) -> str:
    """Path and query, so that a copied link leaves the token out."""
    rest = [(key, value) for key, value in parse_qsl(url.query) if key != "token"]
    return "/" + url.path.lstrip("/") + ("?" + urlencode(rest) if rest else "")


def hosts_of(address: str) -> list[str]:
    """Names by which the server at an address may be asked for."""
    if address in LOCAL:
        return list(LOCAL)
    if address in ("0.0.0.0", "::"):
        return ["*"]  # any name may be right; the cookie of the token holds for one alone
    return list(dict.fromkeys([*LOCAL, address, socket.gethostname(), socket.getfqdn()]))


def make(address: str, port: int, token: str | None) -> st.App:
    """The app with its guards, the first of them outermost."""
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts_of(address))]
    if token is not None:
        # cookies do not tell ports apart
        middleware.append(Middleware(AskForToken, token=token, cookie=f"vssm-token-{port}"))
    from workbench.app.first_paint import FirstPaint  # after `prepare`

    middleware.append(Middleware(FirstPaint))
    return st.App(
        Path(__file__).with_name("main.py"),
        routes=[
            Route("/_cells/{key}", partial(_answer, "cells")),
            Route("/_pictures/{kind}/{number:int}", partial(_answer, "picture_choice")),
        ],
        middleware=middleware,
    )


def _answer(module: str, request: Request) -> Response:
    # a page has imported it; the server starts without torch
    return import_module(f"workbench.app.{module}").answer(request)


def new_token() -> str:
    return secrets.token_urlsafe(24)


def _warm_up() -> None:
    with suppress(ImportError):
        import_module("workbench.kernels.cpu").warm_up()
    _spare_collector()


def _spare_collector() -> None:
    """Streamlit collects garbage after every run of a page; what is imported is none, and looking
    through it would take half a second each time.
    """
    gc.collect()
    gc.freeze()


def main() -> None:
    """Serve until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m workbench.app.server")
    parser.add_argument("--address", default=LOCAL[1])
    parser.add_argument("--port", type=int, default=8501)
    given = parser.parse_args()
    token = os.environ.pop(TOKEN, None)
    prepare()  # before torch is imported
    for module in ("app.measure", "figures.overlay"):  # now: no page waits for torch and timm
        import_module(f"workbench.{module}")
    _spare_collector()
    threading.Thread(target=_warm_up, daemon=True).start()
    make(given.address, given.port, token).run(
        config={
            "server.address": given.address,
            "server.port": given.port,
            "server.headless": True,  # else Streamlit asks for an e-mail address at first
            "server.allowedHosts": hosts_of(given.address),
            "browser.gatherUsageStats": False,
        }
    )


if __name__ == "__main__":
    main()
