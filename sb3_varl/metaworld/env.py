"""Meta-World's tasks with a sparse reward, and their registration with Gymnasium."""

import difflib
import math
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_varl.advice.types import TaskSheet
from sb3_varl.arguments import check_integer
from sb3_varl.metaworld.sheets import CAMERAS, TASKS, write_sheet

try:
    import mujoco
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
except ImportError as error:
    raise ImportError(
        'sb3_varl.metaworld needs Meta-World, which is not installed: pip install "sb3_varl[metaworld]"'
    ) from error

OBSERVATION_SHAPE = (39,)
ACTION_SHAPE = (4,)
DEFAULT_CAMERA = "corner4"
MAX_EPISODE_STEPS = 150


def check_task(task: str) -> str:
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
    check_integer("frame_skip", frame_skip)
    if camera_name not in CAMERAS:
        raise ValueError(f"Meta-World has no camera {camera_name!r}. The choices are {', '.join(sorted(CAMERAS))}.")
    return write_sheet(check_task(task), camera_name, frame_skip)


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


for _task in TASKS:
    gym.register(
        id=f"SparseMetaWorld/{_task}",
        entry_point="sb3_varl.metaworld:SparseMetaWorldEnv",
        max_episode_steps=MAX_EPISODE_STEPS,
        kwargs={"task": _task},
    )
