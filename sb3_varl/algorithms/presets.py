"""Settings of SAC under which success outlives the advice."""

from typing import Any

#: For sparse rewards, with VARL's ``"LayerNormMlpPolicy"`` and observations that
#: :class:`~stable_baselines3.common.vec_env.VecNormalize` normalises. What each is good for is in docs/tips.md, "What
#: helps after the cutoff".
SPARSE: dict[str, Any] = {
    "learning_rate": 1e-3,
    "batch_size": 128,
    "tau": 0.01,
    "gamma": 0.97,
    "train_freq": 8,
    "gradient_steps": 4,
    "n_steps": 5,
    "ent_coef": 0.005,
    "use_sde": True,
}
