"""
VARL on one page, to read or to port: SAC, and what advice adds to it. It needs torch, numpy and gymnasium only.

    pip install gymnasium torch
    python examples/varl_single_file.py                  # the advisor is a plain function: no key, no cost
    python examples/varl_single_file.py --n-queries 0    # nobody is asked: plain SAC

VARL (https://arxiv.org/abs/2509.21126) is SAC with a learned temperature (https://arxiv.org/abs/1812.05905) whose actor
minimises, until a cutoff step,

    J(theta) = E_{s ~ D, a ~ pi} [ alpha log pi(a|s) - min_i Q_i(s, a) ]         as in SAC
             + lambda E_{(s, a) ~ D_g} [ g(s, a) (-log pi(a|s)) ]                VARL's only addition to a loss

D is the replay buffer. D_g, the guidance buffer, holds visited states and what an advisor would have done there. The
gate g is 1 where the advice disagrees with what the policy would do and 0 elsewhere. Rewards and critics never see the
advice. The paper leaves the gate's formula open; that, the clipping of the advice, the least standard deviation and the
gradient into the mean only are as in sb3_varl.
"""

import argparse
import collections
import copy
import dataclasses
import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from torch import nn


def option(default: Any, meaning: str) -> Any:
    """:return: A field of ``Args`` and what the command line says of it"""
    return dataclasses.field(default=default, metadata={"help": f"{meaning} (default: %(default)s)"})


@dataclasses.dataclass
class Args:
    """All hyperparameters. Steps are environment steps, and each is followed by one gradient update."""

    # SAC
    env_id: str = option("Pendulum-v1", "environment of Gymnasium; another one needs another advise()")
    total_steps: int = option(5000, "length of the training")
    seed: int = option(0, "seed of everything")
    learning_starts: int = option(400, "until this step actions are random")
    learning_rate: float = option(1e-3, "of Adam, for all networks and the temperature")
    buffer_size: int = option(100_000, "rows of the replay buffer D")
    batch_size: int = option(128, "rows of D in an update")
    hidden: int = option(64, "width of the two hidden layers")
    gamma: float = option(0.98, "discount")
    tau: float = option(0.01, "share of the way that the targets follow the critics in an update")
    # VARL
    n_queries: int = option(5, "how many times the advisor is asked, 0 for plain SAC")
    first_query: int = option(400, "step of the first query")
    query_freq: int = option(300, "steps between queries")
    states_per_query: int = option(32, "K, states in a query")
    window: int = option(400, "most recent steps that the K states are drawn from")
    guidance_buffer_size: int = option(10_000, "rows of the guidance buffer D_g")
    guidance_batch_size: int = option(128, "rows of D_g in an update")
    gate_threshold: float = option(0.4, "distance that opens the gate, in an action space from -1 to 1")
    shaping_coef: float = option(20.0, "lambda, weight of VARL's term")
    shaping_steps: int = option(3000, "cutoff, from this step on plain SAC")


# Advice is clipped to this. A tanh-Gaussian never gets to 1, and the last hundredths are far away before the squashing:
# artanh 0.9 is 1.5, artanh 0.999 is 3.8. Chasing them would drown all other advice.
MAX_ADVICE = 0.9
# A standard deviation below this counts as this in VARL's term. The pull towards advice goes with 1/std^2: a policy
# that is sure of one component in a few states would be pulled there alone.
MIN_STD = 0.3


def advise(observation: np.ndarray) -> np.ndarray:
    """
    The advisor: what it would do in a state. In the paper it is a vision-language model, here a rule for the pendulum.

    :param observation: Cosine and sine of the angle from upright, and angular velocity
    :return: The action, from -1 to 1
    """
    cosine, sine, velocity = observation
    if cosine > 0.9:
        torque = -10 * sine - 3 * velocity  # nearly upright: hold it there
    else:
        energy = velocity**2 / 6 + 5 * cosine  # of a rod of 1 kg and 1 m with g = 10; 5 at rest upright
        torque = 10 * (5 - energy) * math.copysign(1, velocity)  # pushing along gains energy, against it loses some
    return np.clip([torque / 2], -1, 1, dtype=np.float32)  # the motor has 2 Nm


def log_density(u: th.Tensor, mean: th.Tensor, std: th.Tensor) -> th.Tensor:
    """
    How likely the action a = tanh(u) is, where u is Gaussian:

        log pi(a|s) = sum_d [ log N(u_d; mean_d, std_d) - log(1 - tanh(u_d)^2) ]

    :param u: Actions before the squashing, (n, d)
    :param mean: The Gaussian's mean, (n, d)
    :param std: The Gaussian's standard deviation, (n, d)
    :return: Log-densities, (n,)
    """
    log_slope = 2 * (math.log(2) - u - nn.functional.softplus(-2 * u))  # log(1 - tanh(u)^2), also for large u
    return (th.distributions.Normal(mean, std).log_prob(u) - log_slope).sum(dim=1)


class Actor(nn.Module):
    """
    The policy: a Gaussian whose mean and standard deviation depend on the state, squashed by tanh.

    :param n_observations: Numbers in an observation
    :param n_actions: Numbers in an action
    :param hidden: Width of the two hidden layers
    """

    def __init__(self, n_observations: int, n_actions: int, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(n_observations, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.mean = nn.Linear(hidden, n_actions)
        self.log_std = nn.Linear(hidden, n_actions)

    def forward(self, observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """:return: Mean and standard deviation before the squashing, (n, d) each; tanh(mean) is the greedy action"""
        features = self.body(observations)
        return self.mean(features), self.log_std(features).clamp(-20, 2).exp()

    def sample(self, observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """:return: Actions (n, d) that gradients flow through, and their log-densities (n,)"""
        mean, std = self(observations)
        u = mean + std * th.randn_like(mean)
        return u.tanh(), log_density(u, mean, std)


def shaping_loss(
    actor: Actor, observations: th.Tensor, advice: th.Tensor, threshold: float
) -> tuple[th.Tensor, th.Tensor]:
    """
    VARL's term without its coefficient: mean_n[ g(s, a) (-log pi(a|s)) ].

    The mean is over all n, shut gates included: the more the policy agrees, the less it is pulled.

    :param actor: The policy
    :param observations: States, n of them
    :param advice: Advised actions, from -1 to 1, (n, d)
    :param threshold: The gate opens where some component of the advice is further than this from the greedy action
    :return: The loss, and the gates (n,)
    """
    mean, std = actor(observations)
    advice = advice.clamp(-MAX_ADVICE, MAX_ADVICE)
    gates = (advice - mean.tanh()).abs().amax(dim=1) > threshold
    # Advice says where to act and not how sure to be. With a gradient into the standard deviation as well, the policy
    # would become certain of single answers and stop exploring.
    return -(gates * log_density(advice.atanh(), mean, std.detach().clamp(min=MIN_STD))).mean(), gates


class Buffer:
    """
    Rows of several columns; a full buffer overwrites its oldest row. Both D and D_g are one.

    :param size: Rows that fit
    :param widths: For each column, how many numbers it has in a row
    :param rng: Generator of the samples
    """

    def __init__(self, size: int, widths: tuple[int, ...], rng: np.random.Generator) -> None:
        self.columns = [np.zeros((size, width), np.float32) for width in widths]
        self.size, self.n_added, self.rng = size, 0, rng

    def __len__(self) -> int:
        return min(self.n_added, self.size)

    def add(self, *row: np.ndarray | float) -> None:
        """:param row: For each column its numbers"""
        for column, numbers in zip(self.columns, row, strict=True):
            column[self.n_added % self.size] = numbers
        self.n_added += 1

    def sample(self, n: int) -> list[th.Tensor]:
        """:return: n random rows of each column, (n, width)"""
        rows = self.rng.integers(len(self), size=n)
        return [th.from_numpy(column[rows]) for column in self.columns]


def q_values(critics: nn.ModuleList, observations: th.Tensor, actions: th.Tensor) -> list[th.Tensor]:
    """:return: Each critic's value of the actions, (n, 1)"""
    return [critic(th.cat([observations, actions], dim=1)) for critic in critics]


def descend(optimizer: th.optim.Optimizer, loss: th.Tensor) -> None:
    """Do a step down a loss. Gradients that it leaves in other parameters are zeroed before those are updated."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class Agent:
    """Networks, optimizers, and the gradient update."""

    def __init__(self, n_observations: int, n_actions: int, args: Args) -> None:
        def critic() -> nn.Sequential:
            layers = [nn.Linear(n_observations + n_actions, args.hidden), nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(args.hidden, args.hidden), nn.ReLU(), nn.Linear(args.hidden, 1))

        self.args = args
        self.actor = Actor(n_observations, n_actions, args.hidden)
        self.critics = nn.ModuleList([critic(), critic()])
        self.targets = copy.deepcopy(self.critics)
        self.log_alpha = th.zeros(1, requires_grad=True)
        self.target_entropy = -float(n_actions)
        self.actor_optimizer = th.optim.Adam(self.actor.parameters(), lr=args.learning_rate)
        self.critic_optimizer = th.optim.Adam(self.critics.parameters(), lr=args.learning_rate)
        self.alpha_optimizer = th.optim.Adam([self.log_alpha], lr=args.learning_rate)

    def act(self, observation: np.ndarray) -> np.ndarray:
        """:return: A sample of the policy"""
        with th.no_grad():
            return self.actor.sample(th.from_numpy(observation).unsqueeze(0))[0][0].numpy()

    def update(self, batch: list[th.Tensor], guidance: list[th.Tensor] | None) -> float | None:
        """
        Do one gradient step of everything.

        :param batch: Observations, actions, rewards, next observations and terminations from D
        :param guidance: Observations and advice from D_g; None for plain SAC
        :return: The share of gates that are open, if there is guidance
        """
        observations, actions, rewards, next_observations, terminated = batch
        policy_actions, log_prob = self.actor.sample(observations)

        # Temperature: raise alpha while the policy's entropy is below its target.
        alpha = self.log_alpha.detach().exp()
        descend(self.alpha_optimizer, -(self.log_alpha * (log_prob.detach() + self.target_entropy)).mean())

        # Critics: y = r + gamma (1 - terminated) (min_i Q'_i(s', a') - alpha log pi(a'|s')).
        with th.no_grad():
            next_actions, next_log_prob = self.actor.sample(next_observations)
            next_q = th.cat(q_values(self.targets, next_observations, next_actions), dim=1).amin(dim=1, keepdim=True)
            y = rewards + self.args.gamma * (1 - terminated) * (next_q - alpha * next_log_prob.unsqueeze(1))
        errors = [nn.functional.mse_loss(q, y) for q in q_values(self.critics, observations, actions)]
        descend(self.critic_optimizer, 0.5 * (errors[0] + errors[1]))

        # Actor: J(theta), first SAC's part of it, then VARL's.
        q = th.cat(q_values(self.critics, observations, policy_actions), dim=1).amin(dim=1)
        actor_loss = (alpha * log_prob - q).mean()
        share_open = None
        if guidance is not None:
            states, advice = guidance
            advice_loss, gates = shaping_loss(self.actor, states, advice, self.args.gate_threshold)
            actor_loss = actor_loss + self.args.shaping_coef * advice_loss
            share_open = gates.float().mean().item()
        descend(self.actor_optimizer, actor_loss)

        # Targets follow the critics slowly.
        with th.no_grad():
            for target, source in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                target.lerp_(source, self.args.tau)
        return share_open


def main(args: Args) -> tuple[Agent, list[float]]:
    """:return: The trained agent, and the returns of the episodes"""
    th.set_num_threads(1)  # more hardly help networks this small
    th.manual_seed(args.seed)
    # Actions are from -1 to 1 everywhere below; the wrapper turns them into the environment's units.
    env = gym.wrappers.RescaleAction(gym.make(args.env_id), np.float32(-1), np.float32(1))
    env.action_space.seed(args.seed)
    n_observations, n_actions = (math.prod(space.shape or ()) for space in (env.observation_space, env.action_space))

    agent = Agent(n_observations, n_actions, args)
    # Each use has a generator of its own, so that taking advice does not change what SAC samples.
    replay_rng, guidance_rng, query_rng = np.random.default_rng(args.seed).spawn(3)
    replay = Buffer(args.buffer_size, (n_observations, n_actions, 1, n_observations, 1), replay_rng)
    guidance = Buffer(args.guidance_buffer_size, (n_observations, n_actions), guidance_rng)
    query_steps = [args.first_query + i * args.query_freq for i in range(args.n_queries)]
    visited: collections.deque[np.ndarray] = collections.deque(maxlen=args.window)

    returns: list[float] = []
    shares_open: list[float] = []
    episode_return = 0.0
    observation, _ = env.reset(seed=args.seed)
    for now in range(1, args.total_steps + 1):
        action = env.action_space.sample() if now <= args.learning_starts else agent.act(observation)
        next_observation, reward, terminated, truncated, _ = env.step(action)
        # Not "or truncated": a time limit is no end of what follows, and the critics look beyond it.
        replay.add(observation, action, float(reward), next_observation, terminated)
        visited.append(observation)
        episode_return += float(reward)
        observation = next_observation

        # Ask what the advisor would have done where the agent has lately been: the states are its own, not an expert's.
        if now in query_steps and now < args.shaping_steps:
            for i in query_rng.choice(len(visited), min(args.states_per_query, len(visited)), replace=False):
                guidance.add(visited[i], advise(visited[i]))
            print(f"step {now}: asked the advisor, {len(guidance)} states have advice")

        if now > args.learning_starts:
            is_shaped = now < args.shaping_steps and len(guidance) > 0
            advice_batch = guidance.sample(args.guidance_batch_size) if is_shaped else None
            share_open = agent.update(replay.sample(args.batch_size), advice_batch)
            if share_open is not None:
                shares_open.append(share_open)

        if terminated or truncated:
            gates = f"{np.mean(shares_open):.0%} of gates open" if shares_open else "plain SAC"
            print(f"step {now}: return {episode_return:.0f}, {gates}")
            returns.append(episode_return)
            shares_open, episode_return = [], 0.0
            observation, _ = env.reset()
    env.close()
    return agent, returns


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Args):
        name, default = f"--{field.name.replace('_', '-')}", field.default
        parser.add_argument(name, type=type(default), default=default, metavar=type(default).__name__, **field.metadata)
    main(Args(**vars(parser.parse_args())))
