"""The method on one page: what it computes is what the package and Stable-Baselines3's SAC compute."""

import ast
import dataclasses
import importlib.util
import pathlib
import re
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from conftest import CounterEnv
from sb3_varl import VARL

PATH = pathlib.Path(__file__).parent.parent / "examples" / "varl_single_file.py"
HIDDEN, N_ROWS, N_UPDATES = 16, 24, 5
BOUNDS, AGREEING = slice(0, 6), slice(6, 9)  # rows of advice
RUN = {"total_steps": 60, "learning_starts": 20, "batch_size": 16, "hidden": HIDDEN}
ADVICE = {"n_queries": 3, "first_query": 25, "query_freq": 10, "states_per_query": 8, "shaping_steps": 50}


@pytest.fixture
def example(monkeypatch):
    spec = importlib.util.spec_from_file_location("varl_single_file", PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def make_pair(example, monkeypatch, env=None):
    """
    A model of the package and an agent of the example with the same weights.

    :return: The model, which has guidance and transitions, the agent, and for it the same batch and guidance.
        The model samples all rows of both. Some advice is on the bounds, some agrees with the policy, some does not.
    """
    args = example.Args(hidden=HIDDEN, gamma=0.9, tau=0.1, gate_threshold=0.45, shaping_coef=7.0)
    model = VARL(
        "MlpPolicy",
        CounterEnv() if env is None else env,
        learning_rate=args.learning_rate,
        gamma=args.gamma,
        tau=args.tau,
        gate_threshold=args.gate_threshold,
        shaping_coef=args.shaping_coef,
        policy_kwargs={"net_arch": [HIDDEN, HIDDEN]},
        seed=0,
        device="cpu",
    ).learn(N_ROWS)  # collects transitions only
    n_observations, n_actions = (space.shape[0] for space in (model.observation_space, model.action_space))
    rng = np.random.default_rng(0)
    with th.no_grad():
        # Means and standard deviations that differ from state to state, as after some training. SB3 adds 1e-6 within
        # the logarithm of the density, which shows where actions are all but 1: the means are not that large.
        model.actor.mu.weight *= 3
        model.actor.log_std.weight *= 2
        model.actor.log_std.bias -= 1
        model.critic_target.qf0[-1].bias -= 1  # else nobody could tell targets from critics
    agent = example.Agent(n_observations, n_actions, args)
    for own, other in [
        (agent.actor.body, model.actor.latent_pi),
        (agent.actor.mean, model.actor.mu),
        (agent.actor.log_std, model.actor.log_std),
        *zip(agent.critics, model.critic.q_networks, strict=True),
        *zip(agent.targets, model.critic_target.q_networks, strict=True),
    ]:
        own.load_state_dict(other.state_dict())

    observations = rng.normal(size=(N_ROWS, n_observations)).astype(np.float32)
    with th.no_grad():
        greedy = agent.actor(th.from_numpy(observations))[0].tanh().numpy()
    advice = np.clip(greedy + rng.uniform(-0.6, 0.6, (N_ROWS, n_actions)), -1, 1).astype(np.float32)
    advice[BOUNDS], advice[AGREEING] = np.array([[1], [-1]] * 3), greedy[AGREEING]
    model.guidance_buffer.add_all(list(observations), list(advice))
    guidance = model.guidance_buffer.latest(N_ROWS)
    guidance = guidance._make(column.flip(0) for column in guidance)  # the latest came first
    monkeypatch.setattr(model.guidance_buffer, "sample", lambda *args, **kwargs: guidance)

    # Each field has its values: the environments here neither end episodes nor, some of them, reward.
    batch = ReplayBufferSamples(
        observations=th.from_numpy(rng.normal(size=(N_ROWS, n_observations)).astype(np.float32)),
        actions=th.from_numpy(rng.uniform(-1, 1, (N_ROWS, n_actions)).astype(np.float32)),
        next_observations=th.from_numpy(rng.normal(size=(N_ROWS, n_observations)).astype(np.float32)),
        dones=th.from_numpy((rng.random((N_ROWS, 1)) < 0.3).astype(np.float32)),
        rewards=th.from_numpy(rng.normal(size=(N_ROWS, 1)).astype(np.float32)),
    )
    monkeypatch.setattr(model.replay_buffer, "sample", lambda *args, **kwargs: batch)
    transitions = [batch.observations, batch.actions, batch.rewards, batch.next_observations, batch.dones]
    return model, agent, transitions, guidance


def assert_same_actors(agent, model, value):
    """:param value: What to compare of a parameter"""
    for own, other in (("body", "latent_pi"), ("mean", "mu"), ("log_std", "log_std")):
        for first, second in zip(
            getattr(agent.actor, own).parameters(), getattr(model.actor, other).parameters(), strict=True
        ):
            first, second = (th.zeros_like(x) if value(x) is None else value(x) for x in (first, second))
            th.testing.assert_close(first, second, rtol=1e-4, atol=1e-5, msg=lambda text, own=own: f"{own}: {text}")


@pytest.mark.parametrize(
    ("rows", "some_open", "some_closed"),
    [(slice(None), True, True), (BOUNDS, True, False), (AGREEING, False, True)],
    ids=["all", "bounds", "agreeing"],
)
@pytest.mark.parametrize("log_std", [0.0, -3.0], ids=["unsure", "sure"])
def test_the_terms_gradient_is_the_packages(rows, some_open, some_closed, log_std, example, monkeypatch):
    model, agent, _, guidance = make_pair(example, monkeypatch)
    for actor in (model.actor, agent.actor):
        actor.log_std.bias.data += log_std
    guidance = guidance._make(column[rows] for column in guidance)
    monkeypatch.setattr(model.guidance_buffer, "sample", lambda *args, **kwargs: guidance)
    model.actor.optimizer.zero_grad()
    model._shaping_term().add_gradient()

    loss, gates = example.shaping_loss(agent.actor, *guidance, agent.args.gate_threshold)
    (agent.args.shaping_coef * loss).backward()
    assert (gates.any(), (~gates).any()) == (some_open, some_closed)
    assert (agent.actor.mean.weight.grad.abs().max() > 0.01) == some_open
    assert_same_actors(agent, model, lambda parameter: parameter.grad)


def test_the_standard_deviations_head_gets_no_gradient_from_the_advice(example, monkeypatch):
    _, agent, _, guidance = make_pair(example, monkeypatch)
    loss, gates = example.shaping_loss(agent.actor, *guidance, agent.args.gate_threshold)
    loss.backward()
    assert gates.any()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in agent.actor.log_std.parameters())
    for part in (agent.actor.mean, agent.actor.body):
        assert all(parameter.grad.any() for parameter in part.parameters())


@pytest.mark.parametrize("env", [CounterEnv, lambda: gym.make("Pendulum-v1")], ids=["two_actions", "pendulum"])
@pytest.mark.parametrize("advised", [False, True], ids=["sac", "varl"])
def test_updates_are_those_of_sac_or_of_varl(advised, env, example, monkeypatch):
    """
    Without guidance, which is what they get after the cutoff, SB3's SAC; with guidance, the package's VARL.

    Adam's first step tells no more of a gradient than its sign, so there are several.
    """
    model, agent, transitions, guidance = make_pair(example, monkeypatch, env())
    assert model.shaping_active
    if not advised:
        model.end_shaping()
        assert not model.shaping_active, "now train() is SAC's"
    th.manual_seed(0)
    model.train(N_UPDATES, N_ROWS)
    th.manual_seed(0)
    shares_open = [agent.update(transitions, guidance if advised else None) for _ in range(N_UPDATES)]

    assert [share is not None for share in shares_open] == [advised] * N_UPDATES
    assert_same_actors(agent, model, lambda parameter: parameter.grad)
    assert_same_actors(agent, model, lambda parameter: parameter.data)
    th.testing.assert_close(agent.log_alpha.data, model.log_ent_coef.data)
    for own, other in ((agent.critics, model.critic), (agent.targets, model.critic_target)):
        for first, second in zip(own.parameters(), other.parameters(), strict=True):
            th.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_advice_counts_from_the_first_query_until_the_cutoff(example, monkeypatch, capsys):
    guided = []
    update = example.Agent.update

    def watch(self, batch, guidance):
        guided.append(guidance is not None)
        return update(self, batch, guidance)

    monkeypatch.setattr(example.Agent, "update", watch)
    example.main(example.Args(**RUN, **ADVICE))
    steps = range(RUN["learning_starts"] + 1, RUN["total_steps"] + 1)
    assert guided == [ADVICE["first_query"] <= step < ADVICE["shaping_steps"] for step in steps]


def test_a_run_whose_cutoff_is_before_the_advice_is_one_without(example, capsys):
    """Bit for bit: asking draws from no generator that SAC draws from."""

    def learnt(**kwargs):
        agent, returns = example.main(example.Args(**{**RUN, **ADVICE, **kwargs}))
        modules = (agent.actor, agent.critics, agent.targets)
        return returns, [*(parameter for module in modules for parameter in module.parameters()), agent.log_alpha]

    plain_returns, plain = learnt(n_queries=0)
    returns, parameters = learnt(shaping_coef=0.0)
    assert plain_returns == returns
    assert all(th.equal(*pair) for pair in zip(plain, parameters, strict=True))
    _, parameters = learnt(shaping_steps=0)
    assert all(th.equal(*pair) for pair in zip(plain, parameters, strict=True))
    _, parameters = learnt()
    assert not th.equal(plain[0], parameters[0])


class Watched(gym.Wrapper):
    """Remembers what happened. Episodes take turns in being cut off after 20 steps and ending for good after 7."""

    def __init__(self, env):
        super().__init__(env)
        self.transitions, self.n_episodes = [], 0

    def reset(self, **kwargs):
        self.observation, info = self.env.reset(**kwargs)
        self.n_steps, self.n_episodes = 0, self.n_episodes + 1
        return self.observation, info

    def step(self, action):
        before = self.observation
        self.observation, reward, *_ = self.env.step(action)
        self.n_steps += 1
        terminated = self.n_episodes % 2 == 0 and self.n_steps == 7
        self.transitions.append([before, action / 2, reward, self.observation, terminated])  # 2 Nm are an action of 1
        return self.observation, reward, terminated, self.n_steps == 20, {}


@pytest.fixture
def watched(example, monkeypatch):
    env = Watched(gym.make("Pendulum-v1"))
    monkeypatch.setattr(example.gym, "make", lambda env_id: env)
    return env


def test_it_asks_about_visited_states_and_prints_how_it_goes(example, watched, monkeypatch, capsys):
    asked = []

    def advise(observation):
        asked.append((len(watched.transitions), observation))
        return np.zeros(1, np.float32)

    monkeypatch.setattr(example, "advise", advise)
    _, returns = example.main(example.Args(**RUN, **{**ADVICE, "shaping_steps": 45}, window=10))
    assert len(asked) == 2 * ADVICE["states_per_query"], "the third query is due at the cutoff, too late to count"
    for n_transitions, observation in asked:
        latest = watched.transitions[n_transitions - 10 : n_transitions]
        assert any(np.array_equal(observation, transition[0]) for transition in latest)
    assert len({tuple(observation) for _, observation in asked[:8]}) == 8
    episodes = [slice(0, 20), slice(20, 27), slice(27, 47), slice(47, 54)]
    assert returns == pytest.approx([sum(row[2] for row in watched.transitions[episode]) for episode in episodes])

    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"step 20: return {returns[0]:.0f}, plain SAC"
    assert printed[1] == "step 25: asked the advisor, 8 states have advice"
    assert re.fullmatch(rf"step 27: return {returns[1]:.0f}, \d+% of gates open", printed[2])
    assert printed[3] == "step 35: asked the advisor, 16 states have advice"
    assert len(printed) == 2 + len(returns)


def test_it_learns_from_what_happened(example, watched, monkeypatch, capsys):
    rows = []
    monkeypatch.setattr(example.Agent, "update", lambda self, batch, guidance: rows.extend(th.cat(batch, dim=1)))
    example.main(example.Args(**RUN))
    happened = np.array([np.hstack(transition) for transition in watched.transitions])
    distance = np.abs(np.array(rows)[:, None] - happened).max(axis=2)
    assert distance.min(axis=1).max() < 1e-5
    terminated = np.array(rows)[:, -1]
    assert set(terminated) == {0, 1}


def test_a_full_buffer_drops_its_oldest_row(example):
    buffer = example.Buffer(4, (2, 1), np.random.default_rng(0))
    for i, expected in enumerate([{0}, {0, 1}, {0, 1, 2}, {0, 1, 2, 3}, {1, 2, 3, 4}, {2, 3, 4, 5}]):
        buffer.add(np.array([i, -i]), i)
        first, second = buffer.sample(100)
        assert len(buffer) == len(expected)
        assert {int(x) for x in second[:, 0]} == expected
        assert th.equal(first, th.cat([second, -second], dim=1))


def test_who_follows_the_advisor_swings_the_pendulum_up_and_holds_it(example):
    env = gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), np.float32(-1), np.float32(1))
    for seed in range(10):
        observation, _ = env.reset(seed=seed)
        for _ in range(200):
            action = example.advise(observation)
            assert action in env.action_space
            observation, *_ = env.step(np.clip(action, -example.MAX_ADVICE, example.MAX_ADVICE))
        assert observation[0] > 0.99


def test_it_needs_torch_numpy_and_gymnasium_only():
    imported = set()
    for node in ast.walk(ast.parse(PATH.read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names == {"torch", "numpy", "gymnasium"}


def test_the_defaults_are_the_packages(example):
    model, args = VARL("MlpPolicy", "Pendulum-v1", device="cpu"), example.Args()
    for name in ("shaping_coef", "guidance_buffer_size", "guidance_batch_size"):
        assert getattr(args, name) == getattr(model, name), name
    assert args.gate_threshold == 0.4


def test_each_option_is_explained_in_a_line(example):
    for field in dataclasses.fields(example.Args):
        meaning = field.metadata["help"].removesuffix(" (default: %(default)s)")
        assert meaning != field.metadata["help"], field.name
        assert 3 < len(meaning) < 80, field.name
