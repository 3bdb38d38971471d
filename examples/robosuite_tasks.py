"""
Somebody else's simulator: robosuite's tasks with their sparse reward, a Panda arm and names for all numbers.

    pip install robosuite
    python examples/robosuite_tasks.py                     # Lift
    python examples/robosuite_tasks.py --task Door

trains VARL with and without an advisor; without one it is SAC, whose own code in SB3 has no n-step returns for Dict
observations. The advisor is RECORDED: a large multimodal model was sent a sentence and
what this measures, and answered with the rules in ``examples/benchmark/recorded_rules/RobosuiteLift-v0.txt``:

    python -m sb3_varl.draft --env examples/robosuite_tasks.py:RobosuiteLift-v0 --task "Lift the cube from the table."
"""

import argparse
import pathlib
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import robosuite
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_varl import SPARSE, VARL, AdvisorCallback, LayerNormMlpPolicy, load_task_sheet

RULES = pathlib.Path(__file__).parent / "benchmark" / "recorded_rules"
ROBOT = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
# What is told of each task beside the robot, and how many actions it takes.
TASKS = {
    "Lift": (("cube_pos", "cube_quat", "gripper_to_cube_pos"), 100),
    "Door": (("door_pos", "handle_pos", "hinge_qpos", "handle_qpos"), 200),
    "Stack": (("cubeA_pos", "cubeA_quat", "cubeB_pos", "cubeB_quat", "gripper_to_cubeA"), 200),
    "PickPlaceCan": (("Can_pos", "Can_quat"), 200),
    "NutAssemblySquare": (("SquareNut_pos", "SquareNut_quat"), 200),
}


class RobosuiteTask(gym.Env):
    """
    One of robosuite's tasks, with a reward of 1 for each step in success and 0 otherwise.

    :param task: Its name
    :param render_mode: ``"rgb_array"`` to see it from the front
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}  # type: ignore[misc]

    def __init__(self, task: str, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self._sim: Any = robosuite.make(
            task,
            robots="Panda",
            has_renderer=False,
            has_offscreen_renderer=render_mode == "rgb_array",
            use_camera_obs=False,
            hard_reset=False,
            ignore_done=True,
            seed=0,  # of what is drawn once, such as the size of Lift's cube
        )
        self._keys = (*ROBOT, *TASKS[task][0])
        self.action_space = gym.spaces.Box(*(bound.astype(np.float32) for bound in self._sim.action_spec))
        self.observation_space = gym.spaces.Dict(
            {key: gym.spaces.Box(-np.inf, np.inf, part.shape) for key, part in self._named(self._sim.reset()).items()}
        )
        self._draw_anew()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self._draw_anew()
        return self._named(self._sim.reset()), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        numbers, *_ = self._sim.step(action)
        success = bool(self._sim._check_success())
        return self._named(numbers), float(success), False, False, {"is_success": success}

    def render(self) -> np.ndarray:
        return self._sim.sim.render(camera_name="frontview", width=256, height=256)[::-1]

    def close(self) -> None:
        self._sim.close()

    def _draw_anew(self) -> None:
        """Of everything that robosuite draws for an episode, by a generator that it hands on."""
        self._sim.rng.bit_generator.state = self.np_random.bit_generator.state

    def _named(self, numbers: dict[str, Any]) -> dict[str, np.ndarray]:
        return {key: np.atleast_1d(numbers[key]).astype(np.float32) for key in self._keys}


for name, (_, n_steps) in TASKS.items():
    gym.register(f"Robosuite{name}-v0", RobosuiteTask, max_episode_steps=n_steps, kwargs={"task": name})  # type: ignore[arg-type]


def make_env(task: str, seed: int, training: bool = True) -> VecNormalize:
    env = make_vec_env(f"Robosuite{task}-v0", seed=seed)
    return VecNormalize(env, training=training, norm_reward=False)


def train(name: str, args: argparse.Namespace, *callbacks: AdvisorCallback) -> EvalCallback:
    """Train a model, and evaluate it on the way."""
    env, half = make_env(args.task, args.seed), args.steps // 2
    model = VARL(LayerNormMlpPolicy, env, seed=args.seed, shaping_steps=half, **SPARSE)
    evaluation = EvalCallback(
        make_env(args.task, 1000 + args.seed, training=False),
        eval_freq=args.steps // 10,
        n_eval_episodes=20,
        log_path=str(args.out / name),
        verbose=0,
    )
    model.learn(args.steps, callback=[evaluation, *callbacks], progress_bar=True)
    return evaluation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="Lift")
    parser.add_argument("--advisor", help="as AdvisorCallback takes it (default: recorded)")
    parser.add_argument("--steps", type=int, default=40_000, help="environment steps of each of the two runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("robosuite"))
    args = parser.parse_args()
    recorded = RULES / f"Robosuite{args.task}-v0"
    callback = AdvisorCallback(
        args.advisor or f"rules/{recorded}.txt",
        sheet=load_task_sheet(recorded.with_suffix(".yml")),
        frames=False,
        log_path=args.out / "advice",
        verbose=1,
    )
    advised, alone = train("VARL", args, callback), train("SAC", args)
    print("Success in 20 episodes\n  steps   VARL    SAC")
    for i, steps in enumerate(advised.evaluations_timesteps):
        print(f"{steps:7}" + "".join(f"{np.mean(run.evaluations_successes[i]):7.0%}" for run in (advised, alone)))


if __name__ == "__main__":
    main()
