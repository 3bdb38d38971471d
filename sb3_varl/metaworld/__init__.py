"""
Meta-World's 50 manipulation tasks (arXiv 1910.10897) with sparse reward, and a simulated VLM for them.

Importing this package registers one Gymnasium environment for each task, for instance ``SparseMetaWorld/reach-v3``::

    env = gym.make("sb3_varl.metaworld:SparseMetaWorld/reach-v3", render_mode="rgb_array")

The part before the colon makes Gymnasium import this package, which a fresh process (``SubprocVecEnv``) needs as well.

Episodes last 150 steps unless ``max_episode_steps`` says otherwise. Meta-World's own limit is 500: most of its scripted
experts are done after 30 to 130 steps, but those of bin-picking, disassemble and stick-pull sometimes need 160.
"""

from sb3_varl.metaworld.env import SparseMetaWorldEnv, task_sheet
from sb3_varl.metaworld.mistaken import MISTAKES, MistakenAdvisor
from sb3_varl.metaworld.scripted import ScriptedAdvisor
from sb3_varl.metaworld.sheets import CAMERAS, TASKS

__all__ = ["CAMERAS", "MISTAKES", "TASKS", "MistakenAdvisor", "ScriptedAdvisor", "SparseMetaWorldEnv", "task_sheet"]
