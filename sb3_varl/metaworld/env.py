"""
Meta-World's 50 manipulation tasks (arXiv 1910.10897) with sparse reward, and a simulated VLM for them.

Importing this module registers one Gymnasium environment for each task, for instance ``SparseMetaWorld/reach-v3``::

    env = gym.make("sb3_varl.metaworld:SparseMetaWorld/reach-v3", render_mode="rgb_array")

The part before the colon makes Gymnasium import this module, which a fresh process (``SubprocVecEnv``) needs as well.

Episodes last 150 steps unless ``max_episode_steps`` says otherwise. Meta-World's own limit is 500: most of its scripted
experts are done after 30 to 130 steps, but those of bin-picking, disassemble and stick-pull sometimes need 160.
"""

import difflib
import math
import time
import warnings
from numbers import Real
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_varl.advice.types import Advice, AdviceQuery, Briefing, TaskSheet
from sb3_varl.metaworld.sheets import CAMERAS, TASKS, write_sheet

try:
    import mujoco
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.policies import ENV_POLICY_MAP
except ImportError as error:
    raise ImportError(
        'sb3_varl.metaworld needs Meta-World, which is not installed: pip install "sb3_varl[metaworld]"'
    ) from error

__all__ = ["CAMERAS", "TASKS", "ScriptedAdvisor", "SparseMetaWorldEnv", "task_sheet"]

OBSERVATION_SHAPE = (39,)
ACTION_SHAPE = (4,)
DEFAULT_CAMERA = "corner4"
MAX_EPISODE_STEPS = 150


def _check_task(task: str) -> str:
    """
    Refuse what is not one of Meta-World's tasks.

    :param task: Name of a task
    :return: The name
    :raises ValueError: if there is no such task
    """
    if task in TASKS:
        return task
    near = difflib.get_close_matches(str(task), TASKS)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"Meta-World has no task {task!r}.{hint} sb3_varl.metaworld.TASKS lists all {len(TASKS)}.")


def task_sheet(task: str, camera_name: str = DEFAULT_CAMERA, frame_skip: int = 1) -> TaskSheet:
    """
    What somebody who knows a Meta-World task would tell an advisor about it.

    :param task: One of ``TASKS``, for instance ``"drawer-open-v3"``
    :param camera_name: The camera that takes the pictures; the notes relate its view to the axes
    :param frame_skip: For how many of the simulation's control steps, of 12.5 ms each, an action holds
    :return: Goal, components of actions and observations, conventions
    :raises ValueError: if there is no such task or camera, or ``frame_skip`` is not a positive integer
    """
    if isinstance(frame_skip, bool) or not isinstance(frame_skip, int) or frame_skip < 1:
        raise ValueError(f"frame_skip is {frame_skip!r}, but should be a positive integer.")
    if camera_name not in CAMERAS:
        raise ValueError(f"Meta-World has no camera {camera_name!r}. The choices are {', '.join(sorted(CAMERAS))}.")
    return write_sheet(_check_task(task), camera_name, frame_skip)


class SparseMetaWorldEnv(gym.Env[np.ndarray, np.ndarray]):
    """
    A Meta-World task that gives reward 1 for each step in success and 0 otherwise.

    The observation is Meta-World's, with the goal visible as in its MT1 benchmark, cast to float32; ``task_sheet``
    says what its 39 and the action's 4 components are. Where MT1 picks one of 50 arrangements of objects and goal,
    here every ``reset()`` draws a new one from the distribution that those 50 were drawn from, so that
    ``reset(seed=...)`` determines all that follows.

    ``info["success"]`` is Meta-World's own value for the step. ``info["is_success"]``, which SB3's callbacks read at
    the end of an episode, tells whether *any* step of the episode so far was a success: Meta-World's usual metric.

    Constructed directly, episodes have no time limit; ``gym.make`` adds one.

    :param task: One of ``TASKS``
    :param terminate_on_success: Whether the first success ends the episode
    :param frame_skip: For how many of the simulation's control steps, of 12.5 ms each, an action holds.
        A limit of ``max_episode_steps`` counts actions.
    :param render_mode: ``"rgb_array"``, ``"human"`` or ``None``
    :param camera_name: One of ``CAMERAS``. Those that Meta-World mounted upside down are turned upright.
    :param width: Width of a frame in pixels
    :param height: Height of a frame in pixels
    :raises ValueError: if there is no such task or camera, or ``frame_skip`` is not a positive integer
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human", "rgb_array"], "render_fps": 80}  # type: ignore[misc]

    def __init__(
        self,
        task: str,
        *,
        terminate_on_success: bool = False,
        frame_skip: int = 1,
        render_mode: str | None = None,
        camera_name: str = DEFAULT_CAMERA,
        width: int = 224,
        height: int = 224,
    ) -> None:
        self.task_sheet = task_sheet(task, camera_name, frame_skip)
        self.terminate_on_success = terminate_on_success
        self.frame_skip = frame_skip
        self._camera_name, self._width, self._height = camera_name, width, height
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-np.inf, np.inf, OBSERVATION_SHAPE, np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, ACTION_SHAPE, np.float32)
        self._succeeded = False

        self._env = ALL_V3_ENVIRONMENTS[task](
            reward_function_version="v2",  # "success" is computed along with the reward, and MT1 uses this version
            render_mode=render_mode,
            camera_name=camera_name,
            width=width,
            height=height,
        )
        self._env.max_path_length = math.inf  # it would refuse to go on after 500 steps, whatever TimeLimit says
        self._env.seeded_rand_vec = True
        self._env._set_task_called = True
        self._env._partially_observable = False
        del self._env.sawyer_observation_space  # cached with bounds that clip the goal to zero
        self._turn_cameras_upright()

    def _turn_cameras_upright(self) -> None:
        """Turn cameras that are fixed to the world upside down by half a turn about their line of sight."""
        model, data = self._env.model, self._env.data
        for index in range(model.ncam):
            if model.cam_bodyid[index] == 0 and data.cam_xmat[index].reshape(3, 3)[2, 1] < 0:
                w, x, y, z = model.cam_quat[index]
                model.cam_quat[index] = (-z, y, -x, w)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Begin an episode with a new arrangement of objects and goal.

        :param seed: Seed of the generator that draws this and all later arrangements; ``None`` goes on with it
        :param options: Ignored
        :return: The first observation and an empty dict
        """
        super().reset(seed=seed)
        self._succeeded = False
        env = self._env
        # Meta-World's reset ignores its seed and arranges twice, the second time partly relying on the first: so
        # draw once from our generator, then reset with that draw, which is what its benchmarks do.
        env.np_random = self.np_random
        env._freeze_rand_vec = False
        env.reset_model()
        env._freeze_rand_vec = True
        env.reset()
        # In window-close-v3 the observation and the picture would still show the handle where it was before.
        mujoco.mj_forward(env.model, env.data)
        env._prev_obs = env._get_curr_obs_combined_no_goal()
        return env._get_obs().astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Act for ``frame_skip`` times 12.5 ms, or until the first success.

        :param action: Motion of the gripper in cm along x, y and z, and the force on its fingers, each in [-1, 1]
        :return: Observation, sparse reward, whether success ended the episode, ``False``, info
        """
        for _ in range(self.frame_skip):
            observation, _, _, _, info = self._env.step(action)
            success = bool(info["success"])
            if success:
                break
        self._succeeded = self._succeeded or success
        info["is_success"] = self._succeeded
        if self.render_mode == "human":
            self._env.render()
        return observation.astype(np.float32), float(success), self.terminate_on_success and success, False, info

    def render(self) -> np.ndarray | None:
        """
        Show the current state.

        :return: The frame, ``(height, width, 3)`` uint8, or ``None`` unless the render mode is ``"rgb_array"``
        """
        return None if self.render_mode is None else self._env.render()

    def project(self, points: np.ndarray) -> np.ndarray:
        """
        Find out where points of the world are in the frames of a camera that does not move.

        :param points: World coordinates in metres, ``(..., 3)``
        :return: Pixels from the left and from the top, ``(..., 2)``
        """
        model, data = self._env.model, self._env.data
        camera = model.camera(self._camera_name).id
        # A camera looks along its -z axis; its field of view is the angle between the frame's top and bottom.
        in_camera = (np.asarray(points) - data.cam_xpos[camera]) @ data.cam_xmat[camera].reshape(3, 3)
        focal_length = self._height / 2 / math.tan(math.radians(model.cam_fovy[camera]) / 2)
        on_plane = focal_length * in_camera[..., :2] / -in_camera[..., 2:]
        return np.array([self._width / 2, self._height / 2]) + on_plane * [1, -1]

    def close(self) -> None:
        """Free the renderer. With ``MUJOCO_GL=egl``, MuJoCo prints errors at exit if this was never called."""
        self._env.close()


class ScriptedAdvisor:
    """
    A SIMULATED vision-language model: no model is asked, and nothing that it says is a VLM's performance.

    It answers with the action of Meta-World's scripted expert, made worse in the ways a VLM's answers are: noisy,
    given in coarse numbers, now and then entirely wrong or missing. It is meant for trying out a training run before
    paying for one, and for experiments on how good advice has to be.

    The experts are not perfect: that of push-back-v3 fails in about half of the episodes, a few others now and then.

    An answer depends on the seed, the query's number, the state's number within it and the observation only.

    :param task: One of ``TASKS``
    :param noise: Standard deviation of the Gaussian noise on each component, in units of the action
    :param resolution: Components are rounded to multiples of this, and then clipped to [-1, 1]; 0 is no rounding
    :param error_rate: Probability that an answer is a uniformly random action
    :param abstain_rate: Probability that there is no answer for a state
    :param latency: Seconds that each query takes
    :param seed: Seed of all randomness; ``None`` picks one
    :raises ValueError: if there is no such task or a number is out of range
    :raises TypeError: if what should be a number is not one
    """

    def __init__(
        self,
        task: str,
        *,
        noise: float = 0.2,
        resolution: float = 0.25,
        error_rate: float = 0.05,
        abstain_rate: float = 0.0,
        latency: float = 0.0,
        seed: int | None = None,
    ) -> None:
        self.task = _check_task(task)
        self.noise = _check_number("noise", noise, math.inf)
        self.resolution = _check_number("resolution", resolution, 2.0)
        self.error_rate = _check_number("error_rate", error_rate, 1.0)
        self.abstain_rate = _check_number("abstain_rate", abstain_rate, 1.0)
        self.latency = _check_number("latency", latency, math.inf)
        if seed is None:
            seed = int(np.random.default_rng().integers(2**32))
        elif isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise TypeError(f"seed is {seed!r}, but should be an integer or None.")
        elif seed < 0:
            raise ValueError(f"seed is {seed}, but should not be negative.")
        self.seed = int(seed)
        self._expert = ENV_POLICY_MAP[task]()
        # The experts warn whenever they ask for more than the box allows, which they do most of the time. A filter
        # for good, because advisors are called from worker threads and `warnings.catch_warnings` is not safe there.
        warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high", category=UserWarning)

    def prepare(self, briefing: Briefing) -> None:
        """
        Refuse an environment that the scripted expert cannot act in.

        :param briefing: What stays the same over all queries
        :raises ValueError: if its spaces are not Meta-World's, or its task sheet is that of another task
        """
        for name, space, shape in (
            ("observation", briefing.observation_space, OBSERVATION_SHAPE),
            ("action", briefing.action_space, ACTION_SHAPE),
        ):
            if not isinstance(space, spaces.Box) or space.shape != shape:
                raise ValueError(
                    f"ScriptedAdvisor needs Meta-World's {name}s, a Box of shape {shape}, but the environment's "
                    f"{name} space is {space}. Make it with gym.make('SparseMetaWorld/{self.task}') and without "
                    f"wrappers that change its {name}s."
                )
        if briefing.sheet is not None:
            for task in TASKS:
                if task != self.task and briefing.sheet.goal == task_sheet(task).goal:
                    raise ValueError(f"ScriptedAdvisor was made for {self.task}, but the environment is {task}.")

    def advise(self, query: AdviceQuery) -> Advice:
        """
        Answer a query.

        :param query: The states in question; their observations must be Meta-World's, not normalised
        :return: An action, or ``None`` for an abstention, for each state; nothing was spent
        :raises ValueError: if an observation does not have Meta-World's shape
        """
        if self.latency > 0:
            time.sleep(self.latency)
        return Advice([self._answer(query.index, i, state.observation) for i, state in enumerate(query.states)])

    def _answer(self, query: int, state: int, observation: Any) -> np.ndarray | None:
        array = np.asarray(observation, dtype=np.float64)
        if array.shape != OBSERVATION_SHAPE:
            raise ValueError(
                f"ScriptedAdvisor needs Meta-World's observations, of shape {OBSERVATION_SHAPE}, got {array.shape}."
            )
        # All draws are made whatever the settings, so that changing one of them leaves the others' draws alone.
        rng = np.random.default_rng([self.seed, query, state])
        noise = rng.standard_normal(ACTION_SHAPE)
        random_action = rng.uniform(-1.0, 1.0, ACTION_SHAPE)
        errs, abstains = rng.random(2) < (self.error_rate, self.abstain_rate)
        if abstains:
            return None
        expert_action = np.clip(self._expert.get_action(array), -1.0, 1.0)
        action = random_action if errs else expert_action + self.noise * noise
        if self.resolution > 0:
            action = self.resolution * np.round(action / self.resolution)
        return np.clip(action, -1.0, 1.0).astype(np.float32)


def _check_number(name: str, value: float, high: float) -> float:
    """
    Refuse what is not a finite number between 0 and a bound.

    :param name: The argument's name
    :param value: Its value
    :param high: Highest value allowed
    :return: The value
    :raises TypeError: if it is not a number
    :raises ValueError: if it is out of range
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}, but should be a number.")
    if not (0.0 <= value <= high and math.isfinite(value)):
        range_ = f"between 0 and {high:g}" if math.isfinite(high) else "finite and not negative"
        raise ValueError(f"{name} is {value!r}, but should be {range_}.")
    return float(value)


for _task in TASKS:
    gym.register(
        id=f"SparseMetaWorld/{_task}",
        entry_point="sb3_varl.metaworld:SparseMetaWorldEnv",
        max_episode_steps=MAX_EPISODE_STEPS,
        kwargs={"task": _task},
    )
