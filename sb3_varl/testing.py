"""
A server with OpenAI's chat protocol, for tests: it keeps what an advisor sends, and answers what it is told to.

It listens on the loopback interface only. So a task sheet, a prompt or a whole training run can be tested with
everything that lies between them and a model, without a network, a key or a mock::

    from sb3_varl.testing import Misbehaviour, VLMServer, http_error, write_answer

    def answer(states, images):
        return write_answer(states, [[1.0, 0.0] for _ in states])

    with VLMServer(answer, script=[http_error(429), Misbehaviour(reset=True)]) as server:
        advisor = VLMAdvisor("openai/test", task="Open the drawer.", api_base=server.api_base)
        model.learn(10_000, callback=AdvisorCallback(advisor))
    assert "Open the drawer." in server.requests[0].text

Neither PyTorch nor Stable-Baselines3 nor litellm is needed for the server itself.
"""

import base64
import contextlib
import dataclasses
import io
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

__all__ = [
    "AnswerFunction",
    "Images",
    "Misbehaviour",
    "ReceivedRequest",
    "States",
    "VLMServer",
    "advise_zeros",
    "decode_image",
    "http_error",
    "write_answer",
]

# For each state what its line of JSON says: "state", its number; "observation"; "executed_action"
States = list[dict[str, Any]]
# For each state its picture
Images = list[Image.Image | None]
# From the states of a request and their pictures to what the model says; None says nothing
AnswerFunction = Callable[[States, Images], str | None]

# Seconds that the server's threads get to end.
_PATIENCE = 5.0


@dataclass(frozen=True)
class Misbehaviour:
    """
    What the server does in place of an ordinary answer.

    ``{authorization}`` in any text of it stands for the request's header of that name: a server that repeats the key.
    ``{answer}`` in ``message``, ``choice`` and ``response`` stands for the answer's text.

    :param status: Status code of the response
    :param headers: Headers of the response, in addition to the usual ones
    :param body: Body of the response in place of the usual one
    :param delay: Seconds before the response starts
    :param drip: Seconds between any two bytes of the response's body, 0 to send it at once
    :param reset: Reset the connection without a response
    :param cut: Close the connection after this many bytes of the body, ``None`` for not at all
    :param message: Entries that replace those of the answer's message, such as ``{"content": None}``
    :param choice: Entries that replace those of the answer's choice, such as ``{"finish_reason": "length"}``
    :param response: Entries that replace those of the whole answer, such as ``{"usage": None}``
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


def http_error(status: int, text: str = "no", code: str | None = None, **headers: str) -> Misbehaviour:
    """
    Make an error as OpenAI reports one.

    :param status: Status code
    :param text: The error's message
    :param code: The error's code, for instance ``"insufficient_quota"``
    :param headers: Headers of the response, with ``_`` for ``-``: ``Retry_After="10"``
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
    :param states: What the request says of each state
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


def write_answer(states: States, actions: Iterable[Any]) -> str:
    """
    Put advice into the form that the prompt asks a model for.

    :param states: The states of a request
    :param actions: For each of them the action, a list or an array in the environment's units, or ``None`` for no
        advice
    :return: The answer's text
    :raises ValueError: if there is not one action for each state
    """
    pairs = zip(states, actions, strict=True)
    advice = [{"state": state["state"], "action": action} for state, action in pairs if action is not None]
    return json.dumps({"advice": advice}, default=lambda array: array.ravel().tolist())


def advise_zeros(states: States, images: Images) -> str:
    """
    Advise an action of zeros in each state: what a :class:`VLMServer` answers unless it is told otherwise.

    :param states: The states
    :param images: Their pictures
    :return: The answer's text
    """
    return write_answer(states, [[0.0] * len(state["executed_action"]) for state in states])


class VLMServer:
    """
    The server. It runs as long as its ``with`` block, at whose end all connections are closed, whoever is still
    waiting. It answers for a model of any name, at any path.

    Requests are answered side by side, each in a thread of its own, so that ``answer`` and ``always`` may be called
    from several threads at once. What they raise is answered with status 500, and raised again at the end of the
    ``with`` block, so that ``assert`` may be used in them.

    :param answer: What to say to the states of a request
    :param script: What to do with the first, second, … request in place of answering;
        ``None`` in it stands for an ordinary answer, and so does its end
    :param always: What to do with all requests after the script, or a function that says it for each
    """

    def __init__(
        self,
        answer: AnswerFunction = advise_zeros,
        script: Sequence[Misbehaviour | None] = (),
        always: Misbehaviour | Callable[[], Misbehaviour | None] | None = None,
    ) -> None:
        self.answer = answer
        self.script = script
        self.always = always
        self._requests: list[ReceivedRequest] = []
        self._delivered: list[tuple[ReceivedRequest, float]] = []
        self._hung_up = threading.Event()
        self._error: BaseException | None = None
        self._connections: set[socket.socket] = set()
        self._stopping = threading.Event()
        # For all that the server's threads write.
        self._changed = threading.Condition()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._port: int | None = None

    def __enter__(self) -> "VLMServer":
        if self._server is not None:
            raise RuntimeError("The server is running already.")
        self._stopping.clear()
        self._error = None
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="vlm-server", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *exception: object) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server = self._thread = None
        with self._changed:
            for connection in self._connections:  # clients keep theirs for the next request
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._connections, _PATIENCE)
        if self._error is not None and kind is None:
            raise self._error

    @property
    def api_base(self) -> str:
        """
        What to give to a client as the base URL.

        :raises RuntimeError: if the server was not started yet
        """
        if self._port is None:
            raise RuntimeError('The server has no address yet. Start it: "with VLMServer() as server: ...".')
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def requests(self) -> list[ReceivedRequest]:
        """All requests so far, in the order in which they came."""
        with self._changed:
            return list(self._requests)

    @property
    def delivered(self) -> list[tuple[ReceivedRequest, float]]:
        """
        The requests whose responses were sent as a whole, and when, in seconds since 1970. A client may have its
        response a moment before it is here; at the end of the ``with`` block all are.
        """
        with self._changed:
            return list(self._delivered)

    @property
    def n_connections(self) -> int:
        """Number of open connections."""
        with self._changed:
            return len(self._connections)

    @property
    def hung_up(self) -> threading.Event:
        """Set once a client has gone in the middle of a response."""
        return self._hung_up

    def _add_connection(self, connection: socket.socket) -> None:
        with self._changed:
            self._connections.add(connection)

    def _remove_connection(self, connection: socket.socket) -> None:
        with self._changed:
            self._connections.discard(connection)
            self._changed.notify_all()

    def _next_behaviour(self, request: ReceivedRequest) -> Misbehaviour:
        with self._changed:
            index = len(self._requests)
            self._requests.append(request)
        behaviour = self.script[index] if index < len(self.script) else self.always
        if callable(behaviour):
            try:
                behaviour = behaviour()
            except BaseException as error:  # pytest's own are none of Exception
                return self._note_error(error)
        return behaviour or Misbehaviour()

    def _with_body(self, behaviour: Misbehaviour, request: ReceivedRequest) -> Misbehaviour:
        if behaviour.body is not None:
            return behaviour
        try:
            text = self.answer(request.states, request.images)
            return dataclasses.replace(behaviour, body=json.dumps(_completion(request, text, behaviour)))
        except BaseException as error:
            return self._note_error(error)

    def _note_error(self, error: BaseException) -> Misbehaviour:
        with self._changed:
            self._error = self._error or error
        return http_error(500, f"{type(error).__name__}: {error}")

    def _note_delivery(self, request: ReceivedRequest) -> None:
        with self._changed:
            self._delivered.append((request, time.time()))

    def _note_lost_client(self) -> None:
        if not self._stopping.is_set():
            self._hung_up.set()


def _completion(request: ReceivedRequest, text: str | None, behaviour: Misbehaviour) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **_filled(behaviour.message, text)}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.body.get("model"),
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", **_filled(behaviour.choice, text)}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        **_filled(behaviour.response, text),
    }


def _filled(value: Any, text: str | None) -> Any:
    if isinstance(value, str):
        return value.replace("{answer}", text or "")
    if isinstance(value, Mapping):
        return {key: _filled(part, text) for key, part in value.items()}
    return [_filled(part, text) for part in value] if isinstance(value, list) else value


class _Server(ThreadingHTTPServer):
    owner: VLMServer
    daemon_threads = True

    def process_request(self, request: Any, client_address: Any) -> None:
        self.owner._add_connection(request)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        super().close_request(request)
        self.owner._remove_connection(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that are gone."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    # An answer's body is not to wait for the acknowledgement of its head.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        owner = self.server.owner
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            request = _parse_request(self.path, self.headers.get("Authorization", ""), body)
        except (LookupError, TypeError, ValueError) as error:
            self._send(http_error(400, f"This is no chat: {type(error).__name__}: {error}"), "")
            return
        behaviour = owner._next_behaviour(request)
        if owner._stopping.wait(behaviour.delay):
            self.close_connection = True
            return
        if behaviour.reset:
            # Lingering for zero seconds makes the kernel send RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        try:
            self._send(owner._with_body(behaviour, request), request.authorization)
            owner._note_delivery(request)
        except OSError:
            owner._note_lost_client()
            self.close_connection = True

    def _send(self, behaviour: Misbehaviour, authorization: str) -> None:
        payload = (behaviour.body or "").replace("{authorization}", authorization).encode()
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
        stopping = self.server.owner._stopping
        for byte in payload:
            if stopping.is_set():
                break
            self.wfile.write(bytes([byte]))
            stopping.wait(behaviour.drip)


def _parse_request(path: str, authorization: str, body: bytes) -> ReceivedRequest:
    chat = json.loads(body)
    texts: list[str] = []
    states: States = []
    images: Images = []
    for message in chat["messages"]:
        content: Any = message["content"]
        parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "image_url":
                picture = decode_image(part["image_url"]["url"])
                if images:  # else it is of no state
                    images[-1] = picture
                continue
            texts.append(part["text"])
            for line in part["text"].splitlines() if message["role"] == "user" else ():
                if line.startswith('{"state"'):
                    states.append(json.loads(line))
                    images.append(None)
    return ReceivedRequest(path, authorization, chat, "\n".join(texts), states, images, time.time())


def decode_image(url: str) -> Image.Image:
    """
    Read a picture out of a data URL.

    :param url: ``data:image/png;base64,…``
    :return: The picture
    :raises ValueError: if it is something else
    """
    header, _, data = url.partition(",")
    if header != "data:image/png;base64":
        raise ValueError(f"{url[:40]!r} is no data URL of a PNG picture.")
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
