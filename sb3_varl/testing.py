"""
A small server on the loopback interface that speaks OpenAI's chat protocol, for tests without a network or a mock.

It takes a request apart as a model would see it, into the JSON lines of the states and their pictures,
and answers with whatever a test's function makes of them, or misbehaves.
"""

import base64
import io
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

States = list[dict[str, Any]]
Images = list[Image.Image | None]
# From the states that are asked about, and the picture of each, to the answer's text
AnswerFunction = Callable[[States, Images], str | None]


@dataclass(frozen=True)
class Misbehaviour:
    """
    What the server does in place of an ordinary answer.

    :param status: Status code of the response
    :param headers: Headers of the response, in addition to the usual ones
    :param body: Body of the response in place of the usual one; ``{authorization}``, here and in all that
        follows, stands for the request's header
    :param delay: Seconds before the response starts
    :param drip: Seconds between any two bytes of the response's body, 0 to send it at once
    :param reset: Reset the connection without a response
    :param cut: Close the connection after this many bytes of the body, ``None`` for not at all
    :param message: Entries that replace those of the answer's message
    :param choice: Entries that replace those of the answer's choice
    :param response: Entries that replace those of the whole answer
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    delay: float = 0.0
    drip: float = 0.0
    reset: bool = False
    cut: int | None = None
    message: Mapping[str, Any] = field(default_factory=dict)
    choice: Mapping[str, Any] = field(default_factory=dict)
    response: Mapping[str, Any] = field(default_factory=dict)


def error(status: int, text: str = "no", code: str | None = None, **headers: str) -> Misbehaviour:
    """
    An error as OpenAI reports one.

    :param status: Status code
    :param text: The error's message
    :param code: The error's code, for instance ``"insufficient_quota"``
    :param headers: Headers of the response, with ``_`` for ``-``
    :return: What the server is to do
    """
    body = json.dumps({"error": {"message": text, "type": code, "param": None, "code": code}})
    return Misbehaviour(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


@dataclass(frozen=True)
class ReceivedRequest:
    """
    A request as the server saw it.

    :param path: Path of the URL
    :param authorization: The header of that name
    :param body: The parsed body
    :param text: All texts of all messages
    :param states: The JSON lines of the states
    :param images: For each of the states its picture or ``None``
    :param time: When it was there as a whole, in seconds since 1970
    """

    path: str
    authorization: str
    body: dict[str, Any]
    text: str
    states: States
    images: Images
    time: float


def centre(states: States, images: Images) -> str:
    """
    Advise an action of zeros everywhere.

    :param states: The states
    :param images: Their pictures
    :return: The answer's text
    """
    return json.dumps(
        {"advice": [{"state": state["state"], "action": [0.0] * len(state["executed_action"])} for state in states]}
    )


class VLMServer:
    """
    The server; a context manager that starts and stops it.

    :param answer: What to say to the states of a request
    :param script: What to do with the first, second, … request in place of answering;
        ``None`` in it stands for an ordinary answer, and so does its end
    :param always: What to do with all requests after the script, or a function that says it for each
    """

    def __init__(
        self,
        answer: AnswerFunction = centre,
        script: tuple[Misbehaviour | None, ...] = (),
        always: Misbehaviour | Callable[[], Misbehaviour] | None = None,
    ) -> None:
        self.answer = answer
        self.script = script
        self.always = always
        self.requests: list[ReceivedRequest] = []
        # Those whose answers were sent as a whole, and when
        self.delivered: list[tuple[ReceivedRequest, float]] = []
        # Set once a client has gone in the middle of a response
        self.hung_up = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.n_connections = 0
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def api_base(self) -> str:
        """What to give to a client as the base URL."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "VLMServer":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def count_connection(self, change: int) -> None:
        """
        Note down that a connection was opened or closed.

        :param change: 1 or -1
        """
        with self._lock:
            self.n_connections += change

    def next_behaviour(self, request: ReceivedRequest) -> Misbehaviour:
        """
        Note a request down and say how to treat it.

        :param request: The request
        :return: What to do
        """
        with self._lock:
            index = len(self.requests)
            self.requests.append(request)
        behaviour = self.script[index] if index < len(self.script) else self.always
        if callable(behaviour):
            behaviour = behaviour()
        return behaviour or Misbehaviour()

    def pause(self, seconds: float) -> None:
        """
        Wait, though not beyond the server's end.

        :param seconds: Time to wait
        """
        self._stopping.wait(seconds)

    @property
    def stopping(self) -> bool:
        """Whether the server is being shut down."""
        return self._stopping.is_set()


class _Server(ThreadingHTTPServer):
    owner: VLMServer
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that are gone."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    # An answer's body is not to wait for the acknowledgement of its head.
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server.owner.count_connection(1)

    def finish(self) -> None:
        self.server.owner.count_connection(-1)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        owner = self.server.owner
        request = self._read()
        behaviour = owner.next_behaviour(request)
        owner.pause(behaviour.delay)
        if behaviour.reset:
            # Lingering for zero seconds makes the kernel send RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        body = behaviour.body
        if body is None:
            body = json.dumps(self._completion(request, behaviour))
        payload = body.replace("{authorization}", request.authorization).encode()
        try:
            self._send(behaviour, payload)
            owner.delivered.append((request, time.time()))
        except OSError:
            owner.hung_up.set()
            self.close_connection = True

    def _read(self) -> ReceivedRequest:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        texts: list[str] = []
        states: States = []
        images: Images = []
        for message in body["messages"]:
            content: Any = message["content"]
            parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
            for part in parts:
                if part["type"] == "image_url":
                    images[-1] = decode_image(part["image_url"]["url"])
                    continue
                texts.append(part["text"])
                for line in part["text"].splitlines() if message["role"] == "user" else ():
                    if line.startswith('{"state"'):
                        states.append(json.loads(line))
                        images.append(None)
        authorization = self.headers.get("Authorization", "")
        return ReceivedRequest(self.path, authorization, body, "\n".join(texts), states, images, time.time())

    def _completion(self, request: ReceivedRequest, behaviour: Misbehaviour) -> dict[str, Any]:
        text = self.server.owner.answer(request.states, request.images)
        message = {"role": "assistant", "content": text, **behaviour.message}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": request.body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", **behaviour.choice}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
            **behaviour.response,
        }

    def _send(self, behaviour: Misbehaviour, payload: bytes) -> None:
        self.send_response(behaviour.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        for name, value in behaviour.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if behaviour.cut is not None:
            self.wfile.write(payload[: behaviour.cut])
            self.close_connection = True
            return
        if not behaviour.drip:
            self.wfile.write(payload)
            return
        for byte in payload:
            if self.server.owner.stopping:
                break
            self.wfile.write(bytes([byte]))
            self.server.owner.pause(behaviour.drip)


def decode_image(url: str) -> Image.Image:
    """
    Read a picture out of a data URL.

    :param url: ``data:image/png;base64,…``
    :return: The picture
    """
    header, _, data = url.partition(",")
    assert header == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
