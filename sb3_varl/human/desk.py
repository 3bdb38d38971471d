"""A web page on this machine on which a person answers one question after the other."""

import contextlib
import secrets
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qsl

from sb3_varl.pages import render

HOST = "127.0.0.1"
# Of what is sent back, in bytes.
_MAX_BODY = 4_000_000
# Seconds after which a page without a question looks for one.
_REFRESH = 3


class Question(Protocol):
    """What a person is asked."""

    def page(self, given: Mapping[str, str], remarks: list[str], number: int) -> str:
        """
        Put it on a page.

        :param given: What was filled in before
        :param remarks: What is wrong with that
        :param number: Number of the question, which is to be sent back
        :return: HTML
        """

    def read(self, given: Mapping[str, str]) -> tuple[str, list[str]]:
        """
        Read what was filled in.

        :param given: Fields by their names
        :return: The answer, and what of it cannot be used
        """


def _waiting(late: Mapping[str, str] | None = None) -> str:
    return render("human_waits.html", late=late)


class Interrupted(Exception):
    """Nobody waits for the answer any more."""


class Desk:
    """
    Serves the page, from a thread of its own, to whoever on this machine knows its address.

    :param port: Port of the server, 0 for any that is free
    :raises OSError: if the port is taken
    """

    def __init__(self, port: int = 0) -> None:
        self._changed = threading.Condition()
        self._question: Question | None = None
        self._answer: str | None = None
        self._number = self._taken = self.n_interruptions = 0
        self._is_closed = False
        # Pages of other sites cannot guess it.
        self._token = secrets.token_urlsafe(16)
        try:
            self._server = ThreadingHTTPServer((HOST, port), self._handler())
        except OSError as error:
            raise type(error)(
                error.errno,
                f"Port {port} of this machine cannot be taken ({error}). If another HumanAdvisor has it, call its "
                "close() or use it for both; port=0 takes any that is free",
            ) from None
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="HumanAdvisor", daemon=True).start()

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self._server.server_address[1]}/{self._token}/"

    def ask(self, question: Question, seconds: float | None, n_interruptions: int) -> str | None:
        """
        Put a question on the page, and wait for its answer.

        :param question: The question
        :param seconds: How long to wait, ``None`` for ever
        :param n_interruptions: How many there had been when somebody began to ask
        :return: The answer, or ``None`` if none came in time
        :raises Interrupted: if :meth:`interrupt` was called since
        """
        with self._changed:
            if self._is_closed:
                raise Interrupted
            self._number += 1
            self._question, self._answer = question, None
            try:
                self._changed.wait_for(
                    lambda: self._answer is not None or self.n_interruptions > n_interruptions, seconds
                )
                if self._answer is None and self.n_interruptions > n_interruptions:
                    raise Interrupted
                return self._answer
            finally:
                self._question = None

    def interrupt(self) -> None:
        """Wait for no answer any more."""
        with self._changed:
            self.n_interruptions += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Take the page down."""
        with self._changed:
            self._is_closed = True
        self.interrupt()
        self._server.shutdown()
        self._server.server_close()

    def show(self, given: Mapping[str, str] | None = None) -> tuple[str, bool]:
        """
        Make the page, and take an answer that is sent back.

        :param given: What was filled in, or ``None`` if nothing was
        :return: HTML, and whether it is to stay, because there is a question on it, or what was too late
        """
        with self._changed:
            question, number = self._question, self._number
        if given is None:
            return (_waiting(), False) if question is None else (question.page({}, [], number), True)
        if question is None or given.get("number") != str(number):
            return self._too_late(given)
        text, remarks = question.read(given)
        if remarks and "anyway" not in given:
            return question.page(given, remarks, number), True
        with self._changed:
            if self._question is not question or self._answer is not None:
                return self._too_late(given)
            self._answer, self._taken = text, number
            self._changed.notify_all()
        return _waiting(), False

    def _too_late(self, given: Mapping[str, str]) -> tuple[str, bool]:
        if given.get("number") == str(self._taken):  # sent twice
            return _waiting(), False
        fields = {name: value for name, value in given.items() if value and name not in ("number", "anyway")}
        return _waiting(fields), True

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        desk = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self._is_ours():
                    self._send(*desk.show())

            def do_POST(self) -> None:
                if not self._is_ours():
                    return
                length = int(self.headers.get("Content-Length") or 0)
                if length > _MAX_BODY:
                    self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                    return
                body = self.rfile.read(length).decode("utf-8", errors="replace")
                self._send(*desk.show(dict(parse_qsl(body, keep_blank_values=True))))

            def _is_ours(self) -> bool:
                # A name of somebody else's that leads here is in the Host header.
                is_here = self.headers.get("Host", "").rpartition(":")[0] in (HOST, "localhost")
                if is_here and self.path == f"/{desk._token}/":
                    return True
                self.send_error(HTTPStatus.NOT_FOUND)
                return False

            def _send(self, page: str, stays: bool) -> None:
                content = page.encode("utf-8", errors="replace")
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Cache-Control", "no-store")
                if not stays:
                    self.send_header("Refresh", f"{_REFRESH}; url=/{desk._token}/")
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler
