"""VARL is SAC, plus the gradient that its definition says, until the cutoff."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import TQC
from stable_baselines3 import SAC
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.torch_layers import CombinedExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from conftest import CounterEnv, DictEnv, assert_same_parameters
from sb3_varl import SPARSE, VARL, VARLTQC, LayerNormMlpPolicy
from sb3_varl.algorithms.shaping import GATES

SMALL = {"learning_starts": 20, "batch_size": 16, "seed": 3, "policy_kwargs": {"net_arch": [16]}}


def short_pendulum():
    return gym.make("Pendulum-v1", max_episode_steps=40)


def advised(env="Pendulum-v1", policy="MlpPolicy", n=5, **kwargs):
    model = VARL(policy, env, **{**SMALL, **kwargs})
    model.observation_space.seed(0)
    for i in range(n):
        model.guidance_buffer.add(model.observation_space.sample(), np.full(model.action_space.shape, i / n))
    return model


@pytest.mark.parametrize(
    "kwargs",
    [
        pytest.param({}, id="default"),
        pytest.param({"use_sde": True}, id="gsde", marks=pytest.mark.slow),
        pytest.param({"n_steps": 3, "ent_coef": "auto_0.1"}, id="n_step", marks=pytest.mark.slow),
        pytest.param(
            {"ent_coef": 0.2, "train_freq": (1, "episode"), "gradient_steps": -1}, id="episodes", marks=pytest.mark.slow
        ),
        pytest.param({"action_noise": NormalActionNoise(np.zeros(1), np.ones(1))}, id="noise", marks=pytest.mark.slow),
    ],
)
def test_unadvised_varl_is_sac_bit_for_bit(kwargs):
    """Beyond the fourth episode, after which SB3 writes its logs."""
    sac = SAC("MlpPolicy", short_pendulum(), **{**SMALL, **kwargs}).learn(180)
    varl = VARL("MlpPolicy", short_pendulum(), **{**SMALL, **kwargs}).learn(180)
    assert_same_parameters(sac, varl)


def test_past_the_cutoff_guidance_changes_nothing():
    sac = SAC("MlpPolicy", "Pendulum-v1", **SMALL).learn(100)
    assert_same_parameters(sac, advised(shaping_steps=10).learn(100))


def test_positional_arguments_are_sacs():
    arguments = ("MlpPolicy", "Pendulum-v1", 1e-3, 500, 20, 16, 0.01, 0.9, 2, 3)
    sac, varl = SAC(*arguments), VARL(*arguments)
    for name in ("learning_rate", "buffer_size", "learning_starts", "batch_size", "tau", "gamma", "train_freq"):
        assert getattr(sac, name) == getattr(varl, name)


@pytest.mark.parametrize("use_sde", [False, True], ids=["gaussian", "gsde"])
@pytest.mark.parametrize("gate", GATES)
def test_the_hook_adds_the_gradient_of_the_shaping_term(gate, use_sde):
    """The optimizer sees the gradient of VARL's actor loss, written down as one sum."""
    # Without a learning rate nothing moves, so both sides see the same parameters.
    model = advised(gate=gate, use_sde=use_sde, shaping_coef=7.0, ent_coef=0.1, learning_rate=0.0).learn(30)

    def seed():
        th.manual_seed(0)
        np.random.seed(0)

    seed()
    model.train(1, 16)
    with_hook = [parameter.grad.clone() for parameter in model.actor.parameters() if parameter.grad is not None]

    seed()
    observations = model.replay_buffer.sample(16).observations
    if use_sde:
        model.actor.reset_noise()
    actions, log_prob = model.actor.action_log_prob(observations)
    q_value = th.cat(model.critic(observations, actions), dim=1).min(dim=1).values
    sac_loss = (0.1 * log_prob - q_value).mean()
    guidance = model.guidance_buffer.sample(model.guidance_batch_size)
    mean, log_std, kwargs = model.actor.get_action_dist_params(guidance.observations)
    kwargs = {name: value.detach() for name, value in kwargs.items()}
    policy = model.actor.action_dist.proba_distribution(mean, log_std.detach(), **kwargs)
    log_prob = policy.log_prob(guidance.actions.clamp(-0.9, 0.9))
    greedy = policy.mode()
    is_open = {
        "distance": (guidance.actions - greedy).abs().amax(dim=1) > 0.4,
        "likelihood": log_prob < policy.log_prob(greedy) - 3,
        "q_filter": th.stack(model.critic(guidance.observations, guidance.actions)).amin(dim=0)[:, 0]
        > th.stack(model.critic(guidance.observations, greedy)).amin(dim=0)[:, 0],
        "always": th.ones(len(greedy)),
    }[gate].float()
    mean, std = policy.distribution.mean, policy.distribution.stddev
    assert std.min() < 0.3 < std.max()
    policy.distribution = th.distributions.Normal(mean, std.clamp(min=0.3))
    log_prob = policy.log_prob(guidance.actions.clamp(-0.9, 0.9))
    model.actor.optimizer.zero_grad()
    (sac_loss + 7.0 * (is_open * -log_prob).mean()).backward()
    inline = [parameter.grad for parameter in model.actor.parameters() if parameter.grad is not None]

    assert is_open.mean() > 0, "a shut gate would show nothing"
    assert len(with_hook) == len(inline)
    for hooked, expected in zip(with_hook, inline, strict=True):
        th.testing.assert_close(hooked, expected)


def test_the_critics_see_nothing_of_the_guidance():
    """One update from the same state: the actor differs, the critics and the temperature do not."""
    plain = advised(shaping_coef=0.0).learn(21)
    shaped = advised(shaping_coef=50.0).learn(21)
    for first, second in zip(plain.critic.parameters(), shaped.critic.parameters(), strict=True):
        assert th.equal(first, second)
    assert th.equal(plain.log_ent_coef, shaped.log_ent_coef)
    assert any(not th.equal(*pair) for pair in zip(plain.actor.parameters(), shaped.actor.parameters(), strict=True))


def test_the_hook_is_gone_after_training_even_if_training_fails(monkeypatch):
    model = advised().learn(40)
    assert not model.actor.optimizer._optimizer_step_pre_hooks
    monkeypatch.setattr(model.replay_buffer, "sample", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.train(1)
    assert not model.actor.optimizer._optimizer_step_pre_hooks


def test_guidance_moves_the_policy_to_the_advice():
    model = VARL("MlpPolicy", CounterEnv(low=-1, high=3), **SMALL, shaping_coef=50.0, learning_rate=3e-3)
    observation, advice = np.array([0, 3, 0], np.float32), np.array([2.5, -0.5], np.float32)
    model.guidance_buffer.add(observation, model.policy.scale_action(advice))
    model.learn(150)
    action, _ = model.predict(observation, deterministic=True)
    np.testing.assert_allclose(action, advice, atol=0.8 + 0.1)  # the gate's 0.4 in a box of width 4


def test_dict_observations_and_vec_normalize():
    env = VecNormalize(DummyVecEnv([DictEnv, DictEnv]))
    model = VARL("MultiInputPolicy", env, **SMALL)
    model.guidance_buffer.add({"count": np.zeros(3), "extra": np.zeros(2)}, np.array([0.9, -0.9]))
    model.learn(60)
    assert model.logger.name_to_value["varl/shaping_active"] == 1


def test_image_observations():
    image_env = FakeImageEnv(screen_height=40, screen_width=40, discrete=False)
    model = VARL("CnnPolicy", image_env, **{**SMALL, "policy_kwargs": {}}, buffer_size=100)
    model.guidance_buffer.add(model.observation_space.sample(), np.zeros(model.action_space.shape) + 0.9)
    model.learn(30)
    assert model.logger.name_to_value["varl/shaping_active"] == 1


def test_a_schedule_sets_the_coefficient():
    model = advised(shaping_coef=lambda progress: 10 * progress)
    model.learn(100)
    assert model.logger.name_to_value["varl/shaping_coef"] == pytest.approx(0.1, abs=0.11)


def test_layer_norm_policy_works_with_both_algorithms(tmp_path):
    model = advised(policy="LayerNormMlpPolicy").learn(60)
    assert sum(isinstance(module, th.nn.LayerNorm) for module in model.critic.modules()) == model.critic.n_critics
    SAC(LayerNormMlpPolicy, "Pendulum-v1", **SMALL).learn(60)
    model.save(tmp_path / "model")
    assert_same_parameters(model, VARL.load(tmp_path / "model"))


@pytest.mark.parametrize("cls", [VARL, SAC])
def test_layer_norm_policy_takes_dict_observations(cls, tmp_path):
    model = cls(LayerNormMlpPolicy, DictEnv(), **SMALL).learn(60)
    assert isinstance(model.actor.features_extractor, CombinedExtractor)
    model.save(tmp_path / "model")
    assert_same_parameters(model, cls.load(tmp_path / "model", env=DictEnv()))


@pytest.mark.parametrize(
    ("cls", "policy"),
    [(VARL, "LayerNormMlpPolicy"), (SAC, LayerNormMlpPolicy), (VARLTQC, "MlpPolicy"), (TQC, "MlpPolicy")],
)
def test_sparse_settings_are_taken_and_stay_as_they_are(cls, policy):
    before = copy.deepcopy(SPARSE)
    env = VecNormalize(DummyVecEnv([CounterEnv]), norm_reward=False)
    model = cls(policy, env, **SPARSE | {"gamma": 0.9}, learning_starts=10, policy_kwargs={"net_arch": [8]}).learn(40)
    assert (model.gamma, model.n_steps, model.use_sde) == (0.9, 5, True)
    assert before == SPARSE


def test_layer_norm_bounds_the_critics_away_from_the_data():
    model = VARL("LayerNormMlpPolicy", "Pendulum-v1", **SMALL)
    plain = VARL("MlpPolicy", "Pendulum-v1", **SMALL)
    observations, actions = 1e4 * th.randn(50, 3), th.rand(50, 1)
    values = [th.cat(critic(observations, actions)).abs().max() for critic in (model.critic, plain.critic)]
    assert values[0] < 10 < values[1]


def test_a_schedule_that_ends_at_zero_may_end_between_two_rollouts():
    model = advised(train_freq=8, shaping_coef=lambda remaining: 20.0 * remaining, shaping_steps=1000)
    model.learn(60)
    assert model.num_timesteps == 64


def test_a_schedule_that_turns_negative_is_found_out():
    model = advised(shaping_coef=lambda progress: progress - 0.5)
    match = r"the schedule shaping_coef returns is -0.*expected a number that is at least 0"
    with pytest.raises(ValueError, match=match):
        model.learn(100)


def test_numpy_numbers_will_do():
    model = advised(shaping_coef=np.float32(2), shaping_steps=np.int64(50), guidance_buffer_size=np.int64(7))
    model.learn(30)
    assert model.logger.name_to_value["varl/shaping_coef"] == 2


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered")  # SAC's own
def test_no_gradient_steps_are_no_error():
    advised().learn(30).train(0)


def test_logger_keys(monkeypatch):
    """At the moment when the logs are written."""
    model = advised().learn(30)
    monkeypatch.setattr(model.logger, "dump", lambda step: logged.update(model.logger.name_to_value))
    logged = {}
    model.dump_logs()
    assert {name for name in logged if name.startswith("varl/")} == {
        "varl/shaping_active",
        "varl/shaping_coef",
        "varl/guidance_size",
        *(f"varl/{name}" for name in model.guidance_summary()),
    }
    assert logged["varl/shaping_loss"] > 0
    assert 0 < logged["varl/gate_open"] <= 1
    model = VARL("MlpPolicy", "Pendulum-v1", **SMALL).learn(30)
    assert model.logger.name_to_value["varl/shaping_active"] == 0


@pytest.mark.parametrize("gate_threshold", [0.1, 0.8])
@pytest.mark.parametrize("distance", [0.2, 0.5])
def test_disagreement_is_the_same_whatever_the_threshold(distance, gate_threshold):
    model = VARL("MlpPolicy", "Pendulum-v1", gate_threshold=gate_threshold, **SMALL)
    observation = np.zeros(3, np.float32)
    greedy, _ = model.predict(observation, deterministic=True)
    model.guidance_buffer.add(observation, model.policy.scale_action(greedy) - distance * np.sign(greedy))
    summary = model.guidance_summary()
    assert summary["gate_open"] == (distance > gate_threshold)
    assert summary["disagreement"] == (distance > 0.4)


def test_guidance_summary():
    model = advised().learn(30)
    model.shaping_steps = 0  # it is about the guidance, whether or not that still counts
    summary = model.guidance_summary()
    assert set(summary) == {"gate_open", "disagreement", "shaping_loss", "q_advised", "q_greedy", "entropy"}
    latest = model.guidance_buffer.latest(256)
    with th.no_grad():
        greedy = model.actor(latest.observations, deterministic=True)
        for name, actions in (("q_greedy", greedy), ("q_advised", latest.actions.clamp(-0.9, 0.9))):
            q = th.cat(model.critic(latest.observations, actions), dim=1).min(dim=1).values.mean()
            assert summary[name] == pytest.approx(q.item(), rel=1e-4)
    assert VARL("MlpPolicy", "Pendulum-v1", **SMALL).guidance_summary() == {}


@pytest.mark.slow
def test_writing_the_logs_changes_nothing():
    often = advised(short_pendulum()).learn(180, log_interval=1)
    assert_same_parameters(often, advised(short_pendulum()).learn(180, log_interval=None))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"shaping_coef": -1}, "shaping_coef is -1, expected a number that is at least 0 or a schedule."),
        ({"shaping_coef": float("nan")}, "shaping_coef is nan"),
        ({"shaping_coef": float("inf")}, "shaping_coef is inf"),
        ({"shaping_coef": "20"}, "shaping_coef is '20'"),
        ({"shaping_coef": True}, "shaping_coef is True"),
        ({"shaping_steps": -1}, "shaping_steps is -1, expected an integer that is at least 0"),
        ({"shaping_steps": 1e4}, "shaping_steps is 10000.0"),
        ({"gate": "distanse"}, "gate is 'distanse', expected one of 'distance', 'likelihood', 'q_filter', 'always'"),
        ({"gate_threshold": -0.1}, "gate_threshold is -0.1"),
        ({"gate_threshold": float("nan")}, "gate_threshold is nan"),
        ({"guidance_batch_size": 0}, "guidance_batch_size is 0"),
        ({"guidance_buffer_size": 0}, "guidance_buffer_size is 0"),
        ({"fast": "yes"}, "fast is 'yes', expected True or False"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        VARL("MlpPolicy", "Pendulum-v1", **kwargs)


@pytest.mark.parametrize("env", ["CartPole-v1", "MountainCar-v0"])
def test_discrete_actions_are_refused(env):
    with pytest.raises(AssertionError, match=r"continuous action space .* Discrete.*DQN or PPO"):
        VARL("MlpPolicy", env)


@pytest.mark.parametrize("interrupted_call", [1, 2, 3])
@pytest.mark.parametrize("module", ["critic", "actor"])
def test_control_c_in_the_middle_of_an_update_freezes_nothing(module, interrupted_call):
    model, calls = advised().learn(50), []

    def interrupt(*_):
        calls.append(0)
        if len(calls) == interrupted_call:
            raise KeyboardInterrupt

    hook = list(getattr(model, module).modules())[-1].register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.learn(50, reset_num_timesteps=False)
    hook.remove()
    assert th.is_grad_enabled()
    assert all(parameter.requires_grad for parameter in model.critic.parameters())
    assert not model.critic._forward_pre_hooks
    assert not model.critic._forward_hooks
    assert not model.actor.optimizer._optimizer_step_pre_hooks
    model.learn(5, reset_num_timesteps=False)
