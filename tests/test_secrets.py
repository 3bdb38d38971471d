"""A planted key is nowhere but in the request, whatever the server does with it."""

import base64
import inspect
import json
import logging
import os
import pathlib
import subprocess
import sys
import traceback
import zipfile

import pytest

from conftest import KEY, CounterEnv, make_query, make_vlm
from sb3_varl import VARL, AdvisorCallback, ReplayAdvisor, VLMAdvisor
from sb3_varl.advisors.background import Interruptible
from sb3_varl.advisors.providers import RequestFailed, complete, import_litellm
from sb3_varl.metaworld import ScriptedAdvisor
from sb3_varl.redaction import refuse_secrets, scrub, without_secrets
from sb3_varl.testing import Misbehaviour, VLMServer

pytestmark = pytest.mark.usefixtures("vlm_environment")

# A server that repeats the key in every way: what it says, how it fails, and what it says of itself.
ECHOES = {
    "in an answer": Misbehaviour(
        message={"content": '{"advice": [{"state": 0, "action": [0, 0], "reason": "{authorization}"}]}'}
    ),
    "in an answer that is none": Misbehaviour(message={"content": "Your key is {authorization}."}),
    "in a refusal": Misbehaviour(message={"content": None, "refusal": "{authorization}"}),
    "as the reason of the end": Misbehaviour(choice={"finish_reason": "{authorization}"}),
    "as the model": Misbehaviour(response={"model": "{authorization}", "id": "{authorization}"}),
    "in an error": Misbehaviour(
        401, body='{"error": {"message": "Wrong key: {authorization}", "code": "{authorization}"}}'
    ),
    "in an error that is none": Misbehaviour(500, body="<html>{authorization}</html>"),
    "in a header": Misbehaviour(503, {"x-key": KEY, "Retry-After": KEY}, body="no"),
    "at the end of a long error": Misbehaviour(400, body="x" * 9_980 + " {authorization}"),
}

_RUN = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.logger import configure
from conftest import CounterEnv
from sb3_varl import VARL, AdvisorCallback, VLMAdvisor
from sb3_varl.advisors import vlm_query
vlm_query.RETRY_WAIT = 0.001

advisor = VLMAdvisor("openai/test", "Go.", api_base=sys.argv[1], states_per_request=1, max_failures=99)
callback = AdvisorCallback(
    advisor,
    n_queries=1,
    first_query=20,
    states_per_query=18,
    window=18,
    blocking=True,
    log_path="run/advice",
    verbose=2,
)
model = VARL("MlpPolicy", CounterEnv(), learning_starts=5, batch_size=8, buffer_size=100, verbose=2)
model.set_logger(configure("run", ["stdout", "csv", "json", "tensorboard"]))
model.learn(60, callback=[callback, CheckpointCallback(30, "run/checkpoints", save_replay_buffer=True, verbose=2)])
model.save("run/model")
model.save_guidance_buffer("run/guidance")
print(vars(advisor), vars(callback), vars(model))
"""


def every_text(folder):
    """All files, for archives all files in them, and what SB3 has pickled there."""
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            yield path, data
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    for name in archive.namelist():
                        yield path / name, archive.read(name)
                    if "data" in archive.namelist():
                        for name, value in json.loads(archive.read("data")).items():
                            if isinstance(value, dict) and ":serialized:" in value:
                                yield path / "data" / name, base64.b64decode(value[":serialized:"])


@pytest.mark.slow
@pytest.mark.parametrize("verbose_litellm", [True, False])
def test_no_file_and_no_output_has_the_key(verbose_litellm, tmp_path):
    """At the highest verbosity of everything, litellm's included."""
    with VLMServer(script=tuple(ECHOES.values()) * 2) as server:
        process = subprocess.run(
            [sys.executable, "-c", _RUN, server.api_base],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(pathlib.Path(__file__).parent),
                "OPENAI_API_KEY": KEY,
                **({"LITELLM_LOG": "DEBUG"} if verbose_litellm else {}),
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert process.returncode == 0, process.stderr
        assert len(server.requests) >= 18
        assert all(request.authorization == f"Bearer {KEY}" for request in server.requests)
    assert "DEBUG" in process.stdout
    for where, text in [
        ("stdout", process.stdout.encode()),
        ("stderr", process.stderr.encode()),
        *every_text(tmp_path),
    ]:
        assert KEY.encode() not in text, where
    assert (tmp_path / "run" / "advice" / "advice.jsonl").stat().st_size > 1000


async def send(advisor):
    await complete(import_litellm(), advisor.endpoint.arguments([{"role": "user", "content": "x"}]), 60.0)


@pytest.mark.parametrize("echo", ECHOES)
def test_no_exception_and_no_object_has_the_key(echo, caplog):
    caplog.set_level(logging.DEBUG)
    events, said = [], []
    with VLMServer(always=ECHOES[echo]) as server:
        advisor = make_vlm(server)
        advice = advisor.advise(make_query(1, events.append))
        failure = None
        try:
            Interruptible(send(advisor)).result()
        except RequestFailed as error:
            failure = error
        assert server.requests[0].authorization == f"Bearer {KEY}"
    if failure is not None:
        assert failure.__cause__ is failure.__context__ is None
        said += [repr(vars(failure)), *traceback.format_exception(failure)]
    said += [repr(events), repr(advice), repr(advisor), repr(vars(advisor)), caplog.text]
    assert KEY not in "".join(said)


def test_an_exception_of_somebody_else_s_advisor_has_no_key(tmp_path, caplog):
    class Careless:
        def advise(self, query):
            raise RuntimeError(f"401 for {KEY}")

    callback = AdvisorCallback(
        Careless(), n_queries=1, first_query=20, states_per_query=4, window=10, log_path=tmp_path
    )
    VARL("MlpPolicy", CounterEnv(), learning_starts=5, batch_size=8).learn(30, callback=callback)
    assert "RuntimeError: 401 for ***" in caplog.text
    for where, text in every_text(tmp_path):
        assert KEY.encode() not in text, where


def test_a_key_of_litellm_s_own_configuration_is_known(monkeypatch):
    monkeypatch.setattr("litellm.openai_key", "configured-key-0123")
    assert scrub("Wrong key: configured-key-0123") == "Wrong key: ***"


def test_scrubbing_is_not_put_off_by_short_values(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "a")
    monkeypatch.setenv("OTHER_SECRET", "correct-horse\n")
    assert scrub("a\n correct-horse") == "a ***"
    assert len(scrub("x" * 10_000)) == 300


@pytest.mark.parametrize("text", ['"reason":"turn bearer left"},{"state":1}', '"key=left"},{"state":1}'])
def test_no_json_is_lost_to_words_that_look_like_keys(text):
    assert without_secrets(text).endswith('"},{"state":1}')


def test_half_a_key_is_not_left_over():
    for padding in range(9_970, 10_030):
        assert "planted" not in scrub(" " * padding + KEY)


def test_no_argument_of_ours_is_taken_for_a_secret():
    for function in (VLMAdvisor, AdvisorCallback, VARL, ScriptedAdvisor, ReplayAdvisor):
        refuse_secrets(dict.fromkeys(inspect.signature(function).parameters, "value"), "arguments")


@pytest.mark.parametrize(
    "configuration",
    [
        {"api_key": 1},
        {"extra_headers": {"Authorization": "x"}},
        {"hf_token": "x"},
        "dict(auth_token='hf_x')",
        "{'api_key': 'x'}",
        '{"token": "x"}',
        "api_key:x",
        "advisor_kwargs.auth_token:x",
        "password = 'x'",
        {"github_token": "x"},
        "api_key: abc123",
        "password: hunter2",
        "headers: {Authorization: Bearer abc}",
        "use token:abc",
        "{api_key: abc123def}",
        "env_kwargs:password:'hunter2'",
        {"backend_token": "x"},
        {"developer_token": "x"},
        {"private_key": "x"},
        {"api_tokens": ["x"]},
        ["sk-0123456789"],
        {"api_base": "http://user:word@host/v1"},
    ],
)
def test_configurations_with_secrets_are_refused(configuration):
    with pytest.raises(ValueError, match="no place for a secret"):
        refuse_secrets(configuration, "the file")


@pytest.mark.parametrize(
    "variable",
    [
        "OPENAI_API_KEY",
        "OPENAIKEY",
        "AWS_ACCESS_KEY_ID",
        "HF_TOKEN",
        "GITHUB_TOKENS",
        "PGPASSWORD",
        "MY_SECRET_2",
        "apiKeyOpenai",
        "TOKENHF",
    ],
)
def test_variables_that_are_called_as_secrets_are(variable, monkeypatch):
    monkeypatch.setenv(variable, "correct-horse-battery")
    assert scrub("It is correct-horse-battery.") == "It is ***."


@pytest.mark.parametrize(
    "variable", ["DONKEY_SIM_PATH", "DONKEY", "TURKEY_DATA", "TOKENIZER_FILES", "KEYBOARD", "SSH_KEY_PATH", "SECRETARY"]
)
def test_variables_that_only_sound_like_secrets(variable, monkeypatch):
    monkeypatch.setenv(variable, "/opt/simulator")
    assert scrub("There is no /opt/simulator.") == "There is no /opt/simulator."
    refuse_secrets({"env_kwargs": {"path": "/opt/simulator"}}, "the file")


@pytest.mark.parametrize(
    "configuration",
    [
        {"task": "Pick up the token: the red one."},
        {"task": "token: pick it up"},
        {"task": "Find the secret: it lies under the stone."},
        "The password: open the door",
        {"eos_token": "</s>", "stop_token": "<|end|>", "extra_body": {"bos_token": "<s>", "image_token": "<image>"}},
        {"cost_per_token": 1e-6},
    ],
)
def test_configurations_that_only_sound_like_secrets(configuration):
    refuse_secrets(configuration, "the file")


def test_tokens_of_a_text_may_be_arguments():
    arguments = {"eos_token": "</s>"}
    assert VLMAdvisor("openai/test", completion_kwargs=arguments).endpoint.completion_kwargs == arguments


@pytest.mark.parametrize("place", [0, 40, 85, 95, 105, 110, 115])
def test_no_half_of_a_key_is_an_example(place):
    from sb3_varl.redaction import example_of

    assert "planted" not in example_of(ValueError("x" * place + " " + KEY))
    assert len(example_of("x" * 500)) == 120


def test_exceptions_that_cannot_be_shown_have_a_name():
    from sb3_varl.redaction import example_of

    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    assert example_of(Mute()) == "Mute"


@pytest.mark.parametrize("password", ["word", "wo/rd1234", "w@rd", "wo:rd"])
def test_passwords_in_addresses(password, monkeypatch):
    text = f"No way to http://somebody:{password}@127.0.0.1:9 at present"
    assert without_secrets(text) == "No way to http://***@127.0.0.1:9 at present"
    monkeypatch.setenv("HTTPS_PROXY", f"http://somebody:{password}@127.0.0.1:9")
    assert password not in scrub(f"the proxy somebody:{password} is not there")


_FOLDERS = ("sb3_varl/advisors/recorded_rules", "examples/benchmark/recorded_rules")
_RULES = [path for name in _FOLDERS for path in sorted((pathlib.Path(__file__).parents[1] / name).iterdir())]


@pytest.mark.parametrize("path", _RULES, ids=lambda path: path.name)
def test_recorded_rules_are_left_as_they_are(path, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://a@proxy.corp:3128")
    text = path.read_text(encoding="utf-8")
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    "text",
    [
        '"when": "has_key==1.0"',
        '"let": ["to_key=key_position-hand"]',
        "hockey==0.5",
        "key=key_position",
        "key=position[0]-hand[0]",
        "is_open&key==1.0000000",
        "api_key==1.000000",
        "The key=door_position is what opens it: sk-approach, then sk-open.",
        "Take the key, turn the key: one bearer structure, a Bearer Construction.",
        "the name of the game, me and somebody",
    ],
)
@pytest.mark.parametrize("user", ["a", "me", "somebody", "me:word"])
def test_words_and_expressions_are_no_keys(text, user, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", f"http://{user}@proxy.corp:3128")
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://host/v1?key=abcdefgh-ijkl", "https://host/v1?key=***"),
        ("https://host/v1?alt=sse&key=AbCd1234EfGh", "https://host/v1?alt=sse&key=***"),
        ("api_key=hunter2hunter2", "api_key=***"),
        ("OPENAI_API_KEY=hunter2hunter2", "OPENAI_API_KEY=***"),
        ("x-api-key=hunter2hunter2", "x-api-key=***"),
        ("Incorrect API key: sk-proj-********.", "Incorrect API key: ***"),
        ("sk-abcdEFGHijkl", "***"),
        ("Bearer abcdefghijkl1", "***"),
        ("bearer abcdefghijklmnopqrstuvwxyz", "***"),
    ],
)
def test_what_looks_like_a_key_is_taken_out(text, expected):
    assert without_secrets(text) == expected


def test_what_a_proxy_s_address_tells_is_taken_out(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://me:correct-horse@proxy.corp:3128")
    monkeypatch.setenv("HTTP_PROXY", "http://you@proxy.corp:3128")
    assert without_secrets("for me:correct-horse, correct-horse") == "for ***, ***"
    assert without_secrets("http://you@proxy.corp is for you") == "http://***@proxy.corp is for you"


def test_long_texts_are_looked_through_once():
    assert without_secrets("sk-" * 100_000) == "sk-" * 100_000
