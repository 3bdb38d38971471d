"""
rl-zoo with VARL: train, enjoy, resume, optimise and plot from YAML files, as with ``python -m rl_zoo3``.

    python -m sb3_varl.zoo train --algo varl --env SparseMetaWorld/button-press-topdown-v3
    python -m sb3_varl.zoo enjoy --algo varl --env SparseMetaWorld/button-press-topdown-v3 -f logs

The algorithms are ``varl``, ``varl_tqc`` and ``varl_crossq``, and ``coso`` with the extra of that name; all of rl-zoo's
own go, too. Their hyperparameters are in ``sb3_varl/hyperparams``. An environment that is not listed there gets what
rl-zoo has for SAC, TQC or CrossQ, and for ``coso`` it needs a ``--conf-file``.
"""

import contextlib
import copy
import importlib.util
import io
import itertools
import os
import pathlib
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_varl.advisors.by_name import check_arguments
from sb3_varl.algorithms.guided import Guided
from sb3_varl.algorithms.varl import VARL, VARLTQC, VARLCrossQ
from sb3_varl.arguments import ArgumentError
from sb3_varl.preview.environments import can_render
from sb3_varl.preview.policy import statistics_of_checkpoint
from sb3_varl.redaction import refuse_secrets
from sb3_varl.training.callback import AdvisorCallback
from sb3_varl.training.log_folder import folder_of

try:
    import optuna
    import rl_zoo3.train
    import yaml
    from rl_zoo3 import ALGOS
    from rl_zoo3.exp_manager import ExperimentManager
    from rl_zoo3.hyperparams_opt import (
        HYPERPARAMS_CONVERTER,
        HYPERPARAMS_SAMPLER,
        convert_offpolicy_params,
        sample_sac_params,
        sample_tqc_params,
    )
    from rl_zoo3.utils import SimpleLinearSchedule, get_class_by_name
except ImportError as error:
    raise ImportError('sb3_varl.zoo needs rl-zoo, which is not installed: pip install "sb3_varl[zoo]"') from error

ALGORITHMS: dict[str, type[Guided]] = {"varl": VARL, "varl_tqc": VARLTQC, "varl_crossq": VARLCrossQ}
COSO = "coso"
HYPERPARAMS = pathlib.Path(__file__).parent / "hyperparams"

SCRIPTS = ("train", "enjoy", "plot_train", "plot_from_file", "all_plots")

# What rl-zoo reads itself and does not pass on to the algorithm.
ZOO_KEYS = {
    "callback",
    "env_kwargs",
    "env_wrapper",
    "frame_stack",
    "monitor_kwargs",
    "n_envs",
    "n_timesteps",
    "noise_std",
    "noise_type",
    "normalize",
    "vec_env_wrapper",
}


class GuidedExperimentManager(ExperimentManager):
    """
    rl-zoo's manager of one run, which also knows what advice needs.

    The advice log goes into the run's folder. Environments are made with ``render_mode="rgb_array"`` if the advisor is
    to see frames. A resumed run goes on counting its steps, so that neither cutoff nor queries start over, and a
    checkpoint's statistics of ``VecNormalize`` are saved and resumed with it.

    :param args: The command line, parsed
    :param algo: Name of the algorithm
    :param env_id: Name of the environment
    :param others: Further arguments of :class:`rl_zoo3.exp_manager.ExperimentManager`
    :param kwargs: Its keyword arguments
    """

    env_kwargs: dict[str, Any]
    save_path: str

    def __init__(self, args: Any, algo: str, env_id: str, *others: Any, **kwargs: Any) -> None:
        self.guided = algo in ALGORITHMS
        if kwargs.get("config") is None and (self.guided or algo == COSO):
            kwargs["config"] = str(_hyperparams_file(algo, env_id))
        super().__init__(args, algo, env_id, *others, **kwargs)

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        # rl-zoo prints what it reads before anybody can look for keys in it.
        with contextlib.redirect_stdout(io.StringIO()) as output:
            hyperparams, saved = super().read_hyperparameters()
        refuse_secrets(saved, self.config)
        print(output.getvalue(), end="")
        if self.guided:
            check_arguments(ALGOS[self.algo], hyperparams, also=ZOO_KEYS)
            for name, arguments in _callbacks(hyperparams.get("callback")):
                if get_class_by_name(name) is AdvisorCallback:
                    check_arguments(AdvisorCallback, arguments)
        return hyperparams, saved

    @staticmethod
    def _preprocess_schedules(hyperparams: dict[str, Any]) -> dict[str, Any]:
        coef = hyperparams.get("shaping_coef")
        if isinstance(coef, str):
            try:
                of_lin = SimpleLinearSchedule(coef.removeprefix("lin_"))
                hyperparams["shaping_coef"] = of_lin if coef.startswith("lin_") else float(coef)
            except ValueError:
                raise ArgumentError(
                    f"shaping_coef is {coef!r}, expected a number, or lin_ and a number for one that falls to 0."
                ) from None
        return ExperimentManager._preprocess_schedules(hyperparams)

    def _preprocess_hyperparams(self, hyperparams: dict[str, Any]) -> tuple[Any, ...]:
        if self.guided:
            self._claim_folder()
        self._callback_entries = hyperparams.get("callback")
        log_path = os.path.join(self.save_path, "advice")
        hyperparams = {**hyperparams, "callback": _with_log_path(self._callback_entries, log_path)}
        processed = super()._preprocess_hyperparams(hyperparams)
        self.advice = [callback for callback in processed[2] if isinstance(callback, AdvisorCallback)]
        # rl-zoo itself evaluates in environments without the file's env_kwargs.
        if self.guided and self._eval_env_kwargs_args is None:
            self.eval_env_kwargs = self.env_kwargs
        if self._shows_frames() and "render_mode" not in self.env_kwargs and can_render(self.env_name.gym_id):
            self.env_kwargs = {**self.env_kwargs, "render_mode": "rgb_array"}
        return processed

    def _claim_folder(self) -> None:
        """
        Make the run's folder.

        rl-zoo makes it seconds after it has chosen it, once litellm is imported; runs that are started side by side
        would choose the same, and take each other's advice logs for theirs.
        """
        while True:
            try:
                os.makedirs(self.save_path)
                return
            except FileExistsError:
                name, number, uuid = re.fullmatch(
                    rf"({re.escape(self.env_name)}_)(\d+)(.*)", os.path.basename(self.save_path)
                ).groups()  # type: ignore[union-attr]
                self.save_path = os.path.join(self.log_path, f"{name}{int(number) + 1}{uuid}")
                self.params_path = f"{self.save_path}/{self.env_name}"

    def objective(self, trial: optuna.Trial) -> float:
        manager = copy.copy(self)  # trials may run side by side
        log_path = os.path.join(self.save_path, f"advice_{trial.number}")
        manager.specified_callbacks = _with_log_path(self._callback_entries, log_path)
        return ExperimentManager.objective(manager, trial)

    def _shows_frames(self) -> bool:
        return any(callback.frames for callback in self.advice)

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        env = super().create_envs(n_envs, eval_env, no_log)
        if not eval_env and self._shows_frames() and env.render_mode != "rgb_array" and not _shows_images(env):
            env.close()
            raise ValueError(
                f"The advisor is to see frames, but {self.env_name.gym_id} was made with render_mode "
                f"{env.render_mode!r}. Make it render with env_kwargs: {{render_mode: rgb_array}} if it can, "
                "or write frames: false among the arguments of AdvisorCallback."
            )
        return env

    def create_callbacks(self) -> None:
        super().create_callbacks()
        for callback in self.callbacks:
            if isinstance(callback, CheckpointCallback):
                callback.save_vecnormalize = True

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        statistics = statistics_of_checkpoint(pathlib.Path(self.trained_agent)) if self.guided else None
        if statistics is None:
            return super()._maybe_normalize(env, eval_env)
        normalised = VecNormalize.load(str(statistics), env)
        if eval_env:
            normalised.training = normalised.norm_reward = False
        return normalised

    def learn(self, model: BaseAlgorithm) -> None:
        if not (self.guided and self.continue_training):
            super().learn(model)
            return
        # The advice goes on in the log of the run that is resumed, unless the file says otherwise.
        for callback, progress in zip(self.advice, model.advice_progress, strict=False):  # type: ignore[attr-defined]
            folder = folder_of(progress)
            if str(callback.log_path).startswith(self.save_path) and folder is not None:
                callback.log_path = folder
        super().learn(_Resumed(model))


class _Resumed:
    """A model whose ``learn()`` goes on counting its steps."""

    def __init__(self, model: BaseAlgorithm) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def learn(self, total_timesteps: int, **kwargs: Any) -> BaseAlgorithm:
        return self.model.learn(total_timesteps, reset_num_timesteps=False, **kwargs)


def _hyperparams_file(algo: str, env_id: str) -> pathlib.Path:
    own = HYPERPARAMS / f"{algo}.yml"
    if algo == COSO or env_id in yaml.safe_load(own.read_text()):
        return own
    parent = {"varl": "sac", "varl_tqc": "tqc", "varl_crossq": "crossq"}[algo]
    return pathlib.Path(rl_zoo3.__file__).parent / "hyperparams" / f"{parent}.yml"


def _callbacks(entries: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and arguments of the callbacks in a YAML file."""
    for entry in entries if isinstance(entries, list) else [entries]:
        if isinstance(entry, dict):
            yield from ((name, arguments or {}) for name, arguments in entry.items())
        elif isinstance(entry, str):
            yield entry, {}


def _with_log_path(entries: Any, log_path: str) -> list[Any]:
    """The same callbacks, with a place for the advice log where none is given."""
    located: list[Any] = []
    n_advisors = 0
    for entry in entries if isinstance(entries, list) else [entries]:
        for name, arguments in _callbacks(entry):
            callback = get_class_by_name(name)
            if isinstance(callback, type) and issubclass(callback, AdvisorCallback):
                n_advisors += 1
                own = log_path if n_advisors == 1 else f"{log_path}_{n_advisors}"
                entry = {name: {"log_path": own, **arguments}}
        located.append(entry)
    return [entry for entry in located if entry is not None]


def _shows_images(env: VecEnv) -> bool:
    space = env.observation_space
    return any(is_image_space(part) for part in (space.values() if isinstance(space, spaces.Dict) else [space]))


def _sample_shaping(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "shaping_coef": trial.suggest_float("shaping_coef", 5, 50, log=True),
        "guidance_batch_size": trial.suggest_categorical("guidance_batch_size", [32, 64, 128, 256]),
    }


def sample_varl_params(trial: optuna.Trial, *args: Any) -> dict[str, Any]:
    """
    Draw hyperparameters of VARL: those of SAC, the shaping's weight and its batch size.

    :param trial: Optuna's trial
    :param args: What rl-zoo passes on to samplers
    :return: Keyword arguments of VARL
    """
    return {**sample_sac_params(trial, *args), **_sample_shaping(trial)}


def sample_varl_tqc_params(trial: optuna.Trial, *args: Any) -> dict[str, Any]:
    """
    Draw hyperparameters of VARLTQC, as :func:`sample_varl_params`.

    :param trial: Optuna's trial
    :param args: What rl-zoo passes on to samplers
    :return: Keyword arguments of VARLTQC
    """
    return {**sample_tqc_params(trial, *args), **_sample_shaping(trial)}


def sample_varl_crossq_params(trial: optuna.Trial, *args: Any) -> dict[str, Any]:
    """
    Draw hyperparameters of VARLCrossQ, for which rl-zoo has no sampler to start from.

    :param trial: Optuna's trial
    :param args: What rl-zoo passes on to samplers
    :return: Keyword arguments of VARLCrossQ
    """
    params = {
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 0.0001, 0.03, log=True),
        "batch_size_pow": trial.suggest_int("batch_size_pow", 6, 10),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        "train_freq": trial.suggest_int("train_freq", 1, 10),
        "policy_delay": trial.suggest_int("policy_delay", 1, 4),
        "net_arch": trial.suggest_categorical("net_arch", ["small", "medium", "big"]),
    }
    return {**convert_offpolicy_params(params), **_sample_shaping(trial)}


def sample_coso_params(trial: optuna.Trial, *args: Any) -> dict[str, Any]:
    """
    Draw hyperparameters of CoSo.

    :param trial: Optuna's trial
    :param args: What rl-zoo passes on to samplers
    :return: Keyword arguments of CoSo
    """
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-3, log=True),
        "ent_coef": trial.suggest_float("ent_coef", 1e-3, 1.0, log=True),
        "n_epochs": trial.suggest_int("n_epochs", 1, 8),
    }


def register() -> None:
    """Make the algorithms known to rl-zoo, and the sparse Meta-World tasks, if it is installed, to Gymnasium."""
    ALGOS.update(ALGORITHMS)
    samplers: tuple[Any, ...] = (sample_varl_params, sample_varl_tqc_params, sample_varl_crossq_params)
    HYPERPARAMS_SAMPLER.update(zip(ALGORITHMS, samplers, strict=True))
    HYPERPARAMS_CONVERTER.update(dict.fromkeys(ALGORITHMS, convert_offpolicy_params))
    rl_zoo3.train.ExperimentManager = GuidedExperimentManager
    if importlib.util.find_spec("metaworld") is not None:
        importlib.import_module("sb3_varl.metaworld")


def main(arguments: Sequence[str] | None = None, prog: str = "python -m sb3_varl.zoo") -> None:
    """
    Run one of rl-zoo's scripts. SIGTERM ends training as Ctrl-C does: the model is saved.

    :param arguments: The script's name and its arguments, ``None`` for those of the command line
    :param prog: How this command was called, for its messages
    """
    from rl_zoo3 import cli

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    usage = f"usage: {prog} {{{','.join(SCRIPTS)}}} …"
    if arguments in (["-h"], ["--help"]):
        print(usage)
        return
    if not arguments or arguments[0] not in SCRIPTS:
        sys.exit(usage)
    # rl-zoo writes its command line to files. A storage is a database's address, which may well hold a password.
    refuse_secrets(
        [a for before, a in itertools.pairwise(["", *arguments]) if before != "--storage"], "the command line"
    )
    register()
    if COSO in {argument.removeprefix("--algo=") for argument in arguments}:
        # Not for the others: transformers takes seconds.
        from sb3_varl.coso import CoSo

        ALGOS[COSO] = CoSo
        HYPERPARAMS_SAMPLER[COSO] = sample_coso_params
        HYPERPARAMS_CONVERTER[COSO] = dict
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if "plot" in arguments[0]:
        # The plots look for environments by the names of their folders.
        arguments = [argument.replace("SparseMetaWorld/", "SparseMetaWorld-") for argument in arguments]
    # rl-zoo reads these.
    sys.argv = [f"{prog} {arguments[0]}", *arguments]
    cli.main()


if __name__ == "__main__":
    main()
