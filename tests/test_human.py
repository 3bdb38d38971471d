"""A person as advisor: in a real browser, and what goes wrong on the way."""

import copy
import datetime
import http.client
import json
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest
from stable_baselines3.common.envs import FakeImageEnv
from standing import OTHER, SETTINGS, SMALL, TEXT, NamedEnv, assert_rows_are_advised

from conftest import CounterEnv, make_query
from sb3_varl import VARL, AdvisorCallback, ArgumentError, HumanAdvisor, VLMAdvisor
from sb3_varl.advice.history import read_queries
from sb3_varl.advice.types import Answer, Failure, QueryInterrupted, Request
from sb3_varl.advisors import make_advisor


@pytest.fixture
def make_human():
    """Makes advisors whose page is taken down after the test."""
    made = []

    def make(**arguments):
        # Where a test's person fails, training does not wait for ever.
        made.append(HumanAdvisor("Go.", **{"open_browser": False, "minutes_per_query": 1, **arguments}))
        return made[-1]

    yield make
    for advisor in made:
        advisor.close()


class Advising(threading.Thread):
    """Asks in a thread of its own."""

    def __init__(self, advisor, query):
        super().__init__(daemon=True)
        self.advisor, self.query, self.advice, self.error = advisor, query, None, None
        self.start()

    def run(self):
        try:
            self.advice = self.advisor.advise(self.query)
        except Exception as error:
            self.error = error

    def result(self):
        self.join(20)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.advice


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
        return response.read().decode()


def post(url, **fields):
    with urllib.request.urlopen(url, urllib.parse.urlencode(fields).encode(), timeout=10) as response:
        return response.read().decode()


def wait_for(url, words):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        page = get(url)
        if words in page:
            return page
        time.sleep(0.02)
    raise AssertionError(page)


def fill(browser, url, fields):
    """What a person does."""
    page = browser.new_page()
    page.goto(url)
    page.wait_for_selector("button", timeout=20_000)
    seen = page.inner_text("body"), page.locator(".state img").count()
    for name, value in fields.items():
        page.fill(f"[name='{name}']", value)
    page.click("button")
    page.wait_for_load_state()
    after = page.inner_text("body")
    page.close()
    return *seen, after


def test_actions_in_a_browser(make_human, in_browser):
    advisor, events = make_human(), []
    asked = Advising(advisor, make_query(3, events.append, frames=True))
    fields = {"0_0": "0.5", "0_1": "-0.25", "2_0": "1", "2_1": "0"}
    text, n_pictures, after = in_browser(fill, advisor.url, fields)
    assert "What would" in text
    assert n_pictures == 3
    assert "No question at the moment" in after
    advice = asked.result()
    assert [None if action is None else action.tolist() for action in advice.actions] == [[0.5, -0.25], None, [1, 0]]
    assert advice.rejected == ()
    assert [type(event) for event in events] == [Request, Answer]
    assert events[1].usage.requests == 1
    assert events[1].usage.seconds > 0


def test_rules_in_a_browser_while_training_goes_on(make_human, in_browser):
    """A person writes rules, and corrects them after having seen what became of them."""
    advisor = make_human()
    texts = []

    def answer():
        for rules in (TEXT, OTHER):
            texts.append(in_browser(fill, advisor.url, {"rules": rules})[0])

    person = threading.Thread(target=answer, daemon=True)
    person.start()
    settings = {**SETTINGS, "n_queries": 2, "roll_in": 0, "log_path": "log"}
    callback = AdvisorCallback(advisor, **settings)
    model = VARL("MlpPolicy", NamedEnv(), **SMALL)
    model.learn(60, callback=callback)
    person.join(20)
    assert "By which rules would you act" in texts[0]
    assert "An observation has these numbers" in texts[0]
    assert_rows_are_advised(model.guidance_buffer.rows(), sign=-1)
    assert [[answer.text for answer in query.answers] for query in read_queries("log")] == [[TEXT], [OTHER]]


def test_what_cannot_be_used_is_said_before_it_is_sent(make_human):
    advisor, events = make_human(), []
    asked = Advising(advisor, make_query(2, events.append))
    page = wait_for(advisor.url, "Send")
    page = post(advisor.url, **{"number": "1", "0_0": "0.5", "0_1": "", "1_0": "7", "1_1": "0"})
    assert "state 0: 1 of 2 numbers are there. Fill in all, or none" in page
    assert "state 1: out of bounds" in page
    assert 'value="7"' in page
    assert len(events) == 1
    page = post(advisor.url, **{"number": "1", "0_0": "0.5", "0_1": "0.5", "1_0": "7", "1_1": "0", "anyway": "1"})
    assert "No question at the moment" in page
    advice = asked.result()
    assert advice.actions[0].tolist() == [0.5, 0.5]
    assert [(rejection.reason, rejection.state) for rejection in advice.rejected] == [("out_of_bounds", 1)]


def test_rules_that_cannot_be_used_come_back_with_the_reason(make_human):
    advisor = make_human()
    model = VARL("MlpPolicy", NamedEnv(), **SMALL)
    pages = []

    def answer():
        wait_for(advisor.url, "Send")
        bad = json.dumps({"rules": [{"name": "bad", "when": "wrist > 0", "action": ["0", "0"]}]})
        pages.append(post(advisor.url, number="1", rules=bad))
        pages.append(post(advisor.url, number="1", rules=TEXT))

    person = threading.Thread(target=answer, daemon=True)
    person.start()
    model.learn(40, callback=AdvisorCallback(advisor, **{**SETTINGS, "n_queries": 1, "log_path": False}))
    person.join(20)
    assert "bad: there is no wrist, only episode, t. Take one of them" in pages[0]
    assert "wrist &gt; 0" in pages[0]
    assert_rows_are_advised(model.guidance_buffer.rows())


def test_nobody_answers_in_time(make_human, caplog):
    advisor, events = make_human(minutes_per_query=0.002, max_minutes=0.003), []
    query = make_query(2, events.append)
    advice = advisor.advise(query)
    assert [rejection.reason for rejection in advice.rejected] == ["request_failed"] * 2
    assert [type(event) for event in events] == [Request, Failure]
    assert "nobody answered within 0.12 seconds" in events[1].text
    # What is left of the budget, and then nothing.
    advisor.advise(query)
    assert [rejection.reason for rejection in advisor.advise(query).rejected] == ["budget_exhausted"] * 2
    assert len(events) == 4
    assert "The budget max_seconds=" in caplog.text
    # Whoever comes too late is told so, and keeps what was written.
    page = post(advisor.url, number="1", **{"0_0": "0.125"})
    assert "That question has been taken back" in page
    assert "0_0: 0.125" in page


def test_a_question_is_taken_back_by_control_c(make_human):
    advisor, events = make_human(), []
    asked = Advising(advisor, make_query(1, events.append))
    wait_for(advisor.url, "Send")
    advisor.interrupt()
    with pytest.raises(QueryInterrupted):
        asked.result()
    assert "No question at the moment" in get(advisor.url)
    assert [type(event) for event in events] == [Request, Failure]
    assert events[1].usage.seconds > 0


def test_a_question_is_taken_back_with_the_page(make_human):
    advisor = make_human()
    asked = Advising(advisor, make_query(1))
    wait_for(advisor.url, "Send")
    advisor.close()
    with pytest.raises(QueryInterrupted):
        asked.result()


def test_a_question_is_taken_back_at_the_cutoff(make_human):
    advisor = make_human()
    model = VARL("MlpPolicy", NamedEnv(), **{**SMALL, "shaping_steps": 40})
    callback = AdvisorCallback(advisor, **{**SETTINGS, "n_queries": 1, "blocking": False, "log_path": False})
    model.learn(60, callback=callback)
    assert "No question at the moment" in get(advisor.url)
    asked = Advising(advisor, make_query(1))
    page = wait_for(advisor.url, "Send")
    number = page.partition('name="number" value="')[2].partition('"')[0]
    assert "No question at the moment" in post(advisor.url, number=number, **{"0_0": "0", "0_1": "0"})
    assert asked.result().actions[0].tolist() == [0, 0]
    # Sent twice.
    assert "No question at the moment" in post(advisor.url, number=number, **{"0_0": "0", "0_1": "0"})


def test_nothing_to_show_is_told_of_before_training(make_human):
    model = VARL("CnnPolicy", FakeImageEnv(discrete=False), buffer_size=100)
    callback = AdvisorCallback(make_human(), **{**SETTINGS, "n_queries": 1, "log_path": False})
    with pytest.raises(ValueError, match="frames"):
        model.learn(30, callback=callback)


def test_nobody_else_gets_the_page(make_human):
    advisor = make_human()
    address = urllib.parse.urlsplit(advisor.url)
    for url, headers in (
        (f"http://{address.netloc}/", {}),
        (f"http://{address.netloc}/another/", {}),
        (advisor.url, {"Host": f"evil.example:{address.port}"}),
    ):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(url, **headers)
    connection = http.client.HTTPConnection(address.netloc, timeout=10)
    connection.putrequest("POST", address.path)
    connection.putheader("Content-Length", str(10**9))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    assert address.hostname == "127.0.0.1"


def test_what_stands_in_the_environment_is_no_html(make_human):
    advisor = make_human(form="actions")
    advisor.task = "<script>alert(1)</script>"
    asked = Advising(advisor, make_query(1))
    page = wait_for(advisor.url, "Send")
    assert "<script>" not in page
    post(advisor.url, number="1")
    assert asked.result().actions == [None]


def test_by_name_and_copies(make_human, capsys):
    advisor = make_advisor("human/Push the puck.", open_browser=False)
    assert advisor.task == "Push the puck."
    assert make_advisor("human").task is None
    other = make_human(minutes_per_query=0.001)
    other.advise(make_query(1))
    assert capsys.readouterr().out == f"Your advice is asked for at {other.url}\n"
    assert copy.deepcopy(other)._desk is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"port": -1}, "port is -1"),
        ({"max_minutes": 0}, "max_minutes is 0"),
        ({"minutes_per_query": -1}, "minutes_per_query is -1"),
        ({"form": "words"}, "form is 'words'"),
        ({"open_browser": 1}, "open_browser is 1"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        HumanAdvisor("Go.", **arguments)


def test_a_port_that_is_taken(make_human):
    port = int(make_human().url.split(":")[2].split("/")[0])
    with pytest.raises(OSError, match=f"Port {port} of this machine cannot be taken .*call its close"):
        make_human(port=port).prepare(make_query(1).briefing)


def test_the_prompt_is_what_a_model_would_be_sent(make_human):
    query = make_query(2)
    model = VLMAdvisor("openai/test", task="Go.", api_base="http://localhost:9")
    assert make_human().prompt(query) == model.prompt(query)


def test_rules_need_names(make_human):
    model = VARL("MlpPolicy", CounterEnv(), **SMALL)
    callback = AdvisorCallback(make_human(form="rules"), **{**SETTINGS, "n_queries": 1, "log_path": False})
    with pytest.raises(ArgumentError, match="Rules are about numbers that have names"):
        model.learn(30, callback=callback)
    assert np.isfinite(model.num_timesteps)


@pytest.mark.parametrize("minutes", [30, None])
def test_the_page_says_until_when_an_answer_counts(make_human, minutes):
    before = datetime.datetime.now()
    advisor = make_human(minutes_per_query=minutes)
    asked = Advising(advisor, make_query(1, lambda event: None))
    page = wait_for(advisor.url, "<button>Send")
    advisor.interrupt()
    found = re.findall(r"until <b>(\d\d:\d\d:\d\d)</b> counts", page)
    if minutes is None:
        assert not found
    else:
        until = datetime.datetime.strptime(found[0], "%H:%M:%S").replace(*before.timetuple()[:3])
        assert ((until - before).total_seconds() - 1799) % 86400 < 60
    with pytest.raises(QueryInterrupted):
        asked.result()
