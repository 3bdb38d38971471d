"""Budgets: nothing is sent once one is spent, training goes on, and what was spent before a resume counts."""

import shutil
import time
from typing import Any

import pytest

from conftest import CounterEnv, counts, make_query, make_vlm, page_table, reasons
from sb3_varl import VARL, Advice, AdvisorCallback, Rejection, Usage, VLMAdvisor
from sb3_varl.advisors.providers import price_of
from sb3_varl.arguments import ArgumentError
from sb3_varl.testing import Misbehaviour, VLMServer, http_error

pytestmark = pytest.mark.usefixtures("vlm_environment")

SMALL: dict[str, Any] = {"learning_starts": 5, "gradient_steps": 0, "seed": 0, "policy_kwargs": {"net_arch": [8]}}
# Budgets that are spent after five answers.
BUDGETS: dict[str, dict[str, Any]] = {
    "`max_requests=5`": {"max_requests": 5},
    "`max_total_tokens=550`": {"max_total_tokens": 550},
    "`max_total_tokens=441`": {"max_total_tokens": 441},
    "`max_cost=0.9`, `price_per_token=(0.001, 0.01)`": {"max_cost": 0.9, "price_per_token": (0.001, 0.01)},
}
SECONDS = "`max_seconds=1`, where an answer takes 0.4 s"


def train(
    advisor: VLMAdvisor, tmp_path: Any, model: VARL | None = None, steps: int = 60, resume: bool = False
) -> tuple[VARL, AdvisorCallback]:
    """Three queries about four states each, at steps 20, 40 and 60, in requests of one state."""
    callback = AdvisorCallback(
        advisor,
        n_queries=3,
        first_query=20,
        query_freq=20,
        states_per_query=4,
        window=10,
        frames=False,
        blocking=True,
        log_path=tmp_path / "advice",
        resume=resume,
    )
    goes_on = model is not None
    model = model or VARL("MlpPolicy", CounterEnv(), **SMALL)
    model.learn(steps, callback=callback, reset_num_timesteps=not goes_on)
    return model, callback


@pytest.mark.parametrize("name", [*BUDGETS, SECONDS])
def test_a_budget_in_a_run(name: str, tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    n_requests, guidance, n_exhausted = map(int, page_table("What a budget holds")[name])
    budget = BUDGETS.get(name, {"max_seconds": 1.0, "deadline": 60.0})
    with VLMServer(always=None if name in BUDGETS else Misbehaviour(delay=0.4)) as server:
        model, callback = train(make_vlm(server, states_per_request=1, **budget), tmp_path)
        assert len(server.requests) == n_requests
    assert model.num_timesteps == 60
    assert model.guidance_buffer.size() == guidance
    assert callback.totals["rejected_budget_exhausted"] == n_exhausted
    assert callback.usage.seconds < 1.5
    assert caplog.text.count("The budget ") == 1
    assert f"The budget {next(iter(budget))}=" in caplog.text


def test_the_page_has_all_budgets() -> None:
    assert list(page_table("What a budget holds")) == [*BUDGETS, SECONDS]


@pytest.mark.filterwarnings("ignore:. of 3 queries w", "ignore:The model's advice log")
@pytest.mark.parametrize("keeps_log", [True, False])
@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_a_budget_holds_across_a_resume(budget: dict[str, Any], keeps_log: bool, tmp_path: Any) -> None:
    with VLMServer() as server:
        model, _ = train(make_vlm(server, states_per_request=1, **budget), tmp_path / "first", steps=30)
        model.save(tmp_path / "model")
        assert len(server.requests) == 4
        resumed = VARL.load(tmp_path / "model", env=CounterEnv())
        if not keeps_log:
            shutil.rmtree(tmp_path / "first")
        folder = tmp_path / ("first" if keeps_log else "second")
        _, callback = train(make_vlm(server, states_per_request=1, **budget), folder, resumed, steps=30)
        assert len(server.requests) == 5
    assert resumed.guidance_buffer.size() == 5
    assert counts(callback.usage)[:3] == (5, 500, 50)
    assert callback.totals["states"] == 12


@pytest.mark.filterwarnings("ignore:. of 3 queries w")
@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_a_budget_holds_where_only_the_log_is_left(budget: dict[str, Any], tmp_path: Any) -> None:
    with VLMServer() as server:
        train(make_vlm(server, states_per_request=1, **budget), tmp_path, steps=30)
        model, _ = train(make_vlm(server, states_per_request=1, **budget), tmp_path, resume=True)
        assert len(server.requests) == 5
    assert model.guidance_buffer.size() == 5


def test_a_budget_of_requests_counts_retries(caplog: pytest.LogCaptureFixture) -> None:
    with VLMServer(script=(None, http_error(500))) as server:
        advisor = make_vlm(server, states_per_request=1, max_retries=5, max_requests=2)
        first = advisor.advise(make_query(3))
        second = advisor.advise(make_query(1))
        assert len(server.requests) == 2
    assert list(first.rejected) == [Rejection("request_failed", 1), Rejection("budget_exhausted", 2)]
    assert first.actions[0] is not None
    assert second == Advice([None], [Rejection("budget_exhausted", 0)], Usage())
    assert counts(advisor.usage) == (2, 100, 10, 0.0)
    assert caplog.text.count("max_requests=2 of openai/test is spent") == 1


def test_a_budget_holds_over_the_runs_of_an_advisor(tmp_path: Any) -> None:
    with VLMServer() as server:
        advisor = make_vlm(server, states_per_request=1, max_requests=14)
        for run in ("first", "second"):
            train(advisor, tmp_path / run)
        assert len(server.requests) == 14


def test_what_a_run_has_spent_counts_once() -> None:
    with VLMServer() as server:
        advisor = make_vlm(server, max_requests=2)
        advisor.advise(make_query(1))
        assert reasons(advisor.advise(make_query(1, spent=advisor.usage))) == []


def test_cost_of_a_model_on_the_price_list() -> None:
    with VLMServer() as server:
        advisor = VLMAdvisor("openai/gpt-4o", "Go.", api_base=server.api_base, max_cost=1.0)
        advice = advisor.advise(make_query(1))
    assert advice.usage.cost == pytest.approx(100 * 2.5e-6 + 10 * 1e-5)


def test_a_price_of_nothing_is_none_where_the_model_is_not_known() -> None:
    with pytest.raises(ArgumentError, match="max_cost needs prices"):
        VLMAdvisor("huggingface/together/Qwen/Qwen9-VL-72B", "Go.", api_base="http://127.0.0.1:9/v1", max_cost=1.0)


@pytest.mark.parametrize("model", ["ollama/llava", "ollama_chat/mine", "gemini/gemma-3-27b-it"])
def test_a_price_of_nothing_is_one_where_it_runs_here_or_is_listed(model: str) -> None:
    api_base = "http://127.0.0.1:9/v1"
    assert VLMAdvisor(model, "Go.", api_base=api_base, max_cost=1.0).budget.max_cost == 1.0
    assert price_of(model, 1, 1) == 0.0


def test_an_answer_without_a_known_price_did_not_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with VLMServer() as server:
        advisor = VLMAdvisor("openai/gpt-4o", "Go.", api_base=server.api_base, max_cost=1.0)
        monkeypatch.setattr("litellm.completion_cost", lambda **kwargs: 0.0)
        advice = advisor.advise(make_query(1))
    assert advice.usage.cost == pytest.approx(100 * 2.5e-6 + 10 * 1e-5)


@pytest.mark.parametrize("tokens", [None, {"prompt_tokens": -5, "completion_tokens": -7, "total_tokens": -12}])
def test_a_server_that_counts_no_tokens(tokens: Any) -> None:
    with VLMServer(always=Misbehaviour(response={"usage": tokens})) as server:
        advice = make_vlm(server).advise(make_query(1))
    assert counts(advice.usage) == (1, 0, 0, 0.0)


def test_a_budget_of_time_is_not_spent_on_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_varl.advisors.vlm_query.MAX_RETRY_WAIT", 30.0)
    with VLMServer(always=http_error(503, Retry_After="20")) as server:
        started = time.monotonic()
        advisor = make_vlm(server, max_retries=3, max_seconds=0.5)
        advice = advisor.advise(make_query(1))
        assert time.monotonic() - started < 15
        assert len(server.requests) == advisor.usage.requests == 1
    assert reasons(advice) == ["request_failed"]


def test_a_budget_that_cannot_be_kept_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    with VLMServer(always=Misbehaviour(response={"usage": None})) as server:
        advisor = make_vlm(server, states_per_request=1, max_total_tokens=5)
        advisor.advise(make_query(2))
    assert caplog.text.count("does not report how many tokens an answer took") == 1


def test_an_answer_of_a_model_on_the_price_list_has_a_price_whatever_litellm_makes_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(**kwargs: Any) -> float:
        raise ValueError("no such response")

    with VLMServer() as server:
        advisor = VLMAdvisor("openai/gpt-4o", "Go.", api_base=server.api_base, max_cost=1.0)
        monkeypatch.setattr("litellm.completion_cost", fail)
        advice = advisor.advise(make_query(1))
    assert advice.usage.cost == pytest.approx(100 * 2.5e-6 + 10 * 1e-5)


@pytest.mark.parametrize("cost", [None, float("nan"), -1.0])
def test_a_budget_of_dollars_ends_where_no_price_can_be_told(
    cost: float | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(**kwargs: Any) -> float:
        if cost is None:
            raise ValueError("no such response")
        return cost

    with VLMServer() as server:
        advisor = VLMAdvisor("openai/gpt-4o", "Go.", api_base=server.api_base, states_per_request=1, max_cost=1.0)
        monkeypatch.setattr("litellm.completion_cost", answer)
        monkeypatch.setattr("litellm.cost_per_token", answer if cost is None else lambda **kwargs: (1 / 0,))
        advice = advisor.advise(make_query(3))
        assert len(server.requests) == 1
    assert advice.actions[0] is not None, "what was paid for is used"
    assert reasons(advice) == ["budget_exhausted"] * 2
    assert caplog.text.count("max_cost=1.0 cannot be kept: it is not asked again. Give price_per_token") == 1


def test_without_a_budget_of_dollars_an_unknown_price_is_no_matter(caplog: pytest.LogCaptureFixture) -> None:
    with VLMServer() as server:
        assert reasons(make_vlm(server, states_per_request=1).advise(make_query(2))) == []
    assert not caplog.records


@pytest.mark.parametrize("prices", [None, (1e-6, 1e-6)])
def test_a_budget_of_dollars_ends_where_tokens_are_not_counted(prices: Any, caplog: pytest.LogCaptureFixture) -> None:
    with VLMServer(always=Misbehaviour(response={"usage": None})) as server:
        settings = {"api_base": server.api_base, "states_per_request": 1, "max_cost": 1.0, "price_per_token": prices}
        VLMAdvisor("openai/gpt-4o", "Go.", **settings).advise(make_query(3))
        assert len(server.requests) == 1
        VLMAdvisor("openai/gpt-4o", "Go.", **{**settings, "price_per_token": (0, 0)}).advise(make_query(3))
        assert len(server.requests) == 4, "what is free is asked on"
    assert caplog.text.count("max_cost=1.0 cannot be kept") == 1
