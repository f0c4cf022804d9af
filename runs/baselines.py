"""The trainer of stable-baselines3's agents: its classes learn, its ``learn`` drives; our World plays and our Books count.

Nothing of the library is changed or subclassed but its two doors, ``VecEnv`` and ``BaseCallback``: with the same seed its agents
end with the parameters that they would have without us.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.utils import LinearSchedule, obs_as_tensor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from agents.baselines import BaselineConfig, PpoConfig, QrdqnConfig, baseline
from agents.config import ConfigError
from envs import World, make
from runs.checkpoint import Manifest, State, Store
from runs.config import DOMAINS, InputError
from runs.evaluate import Evaluation, played_out
from runs.flops import FlopCosts
from runs.folder import unloadable
from runs.loop import Books, Ended, Evaluated, Event, Heartbeat
from runs.machine import reserved_vcpus
from runs.prepare import Job, check_free_memory, check_warm_up, expected_steps, most_steps, open_books, train_world
from runs.schema import FINAL_SB3_CHECKPOINT, FINISHED, INTERRUPTED, RUNNING, RunRecord

OPEN_END_STEPS = 10**11  # more than any run has; where the budget sets no limit. A float still tells its steps apart

TWO = 2
"""Matmuls and convolutions are proportional to the batch, so that two transitions tell what a batch costs."""

NETWORK = ("policy", "net_arch", "n_quantiles")
"""Settings of which the shapes of a policy follow."""

# Settings that are no arguments of the library's constructors.
OURS = {
    "policy", "net_arch", "n_quantiles", "n_envs", "clip_rewards", "schedule_steps", "learning_rate_schedule", "clip_range_schedule",
}  # fmt: skip


class WorldVecEnv(VecEnv):
    """A World as the library's VecEnv. What it clips and where it ends a return is what the library's AtariWrapper does."""

    def __init__(self, world: World, clip_rewards: bool, lap: Callable[[str], None]) -> None:
        self.world, self.clip_rewards, self.lap = world, clip_rewards, lap
        self.last_step: tuple[NDArray[Any], NDArray[np.bool_], Mapping[str, Any]]  # real reward, game over, info
        super().__init__(world.num_envs, world.single_observation_space, world.single_action_space)

    def reset(self) -> NDArray[Any]:
        return self.world.reset()[0]

    def step_async(self, actions: NDArray[Any]) -> None:
        self.lap("act")
        self.world.send(actions.astype(np.int64))

    def step_wait(self) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        obs, reward, terminated, truncated, info = self.world.recv()
        over = terminated | truncated
        self.last_step = (reward, over, info)
        life_loss = info.get("life_loss") if self.world.protocol.terminal_on_life_loss else None
        done = over if life_loss is None else over | life_loss
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": bool(cut)} for cut in truncated]
        for lane in np.flatnonzero(done):  # after a life loss the game goes on: the next observation is the last one too
            infos[lane]["terminal_observation"] = (info["final_obs"] if over[lane] else obs)[lane]
        learned = np.sign(reward) if self.clip_rewards else reward
        self.lap("env")
        return obs, learned.astype(np.float32), done, infos

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """A World is seeded when it is made."""
        return list(self.world.lane_seeds)

    def close(self) -> None:
        self.world.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.world, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"a World has no attribute {attr_name} to be set")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise AttributeError(f"a World's lanes have no method {method_name}")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


class BaselineTrainer:
    """A :class:`runs.loop.Trainer`, and the :class:`runs.evaluate.Player` of its one seed."""

    checkpoint_file = FINAL_SB3_CHECKPOINT
    compiled = False
    cuda_graphs = False
    ring = None

    def __init__(self, job: Job, config: BaselineConfig) -> None:
        self.job, self.seeds = job, job.seeds
        algorithm = algorithm_of(job.config.agent)
        check(job, config)
        self.limit_steps = most_steps(job.budget, job.env_spec) or OPEN_END_STEPS
        config = replace(config, schedule_steps=config.schedule_steps or schedule_steps(job))
        self.config, self.agent_config = config, asdict(config)
        torch.set_num_threads(
            job.config.threads or (1 if config.policy == "MlpPolicy" else min(int(reserved_vcpus()), 16) or 1)
        )
        world = train_world(job, config.n_envs)
        self.env = WorldVecEnv(world, config.clip_rewards, job.meter.lap)
        costs, self.value_flops = flop_costs(algorithm, config, world)
        self.books = open_books(job, world, [costs])
        (seed,) = job.seeds
        self.model = build(algorithm, config, self.env, self.limit_steps, seed=seed, device=str(job.device))

    def train(self, consume: Callable[[Event], None]) -> None:
        """Let the library learn, and evaluate what it learned."""
        callback = Bookkeeper(self, self.books, self.env, consume)
        with callback.listening():
            self.model.set_logger(Logger(None, []))
            with suppress(BudgetUsedUp):
                self.model.learn(self.limit_steps, callback, log_interval=None)  # type: ignore[arg-type]
        self.books.meter.lap("learn")
        consume(Ended(callback.status if callback.status == INTERRUPTED else self._finish(consume)))

    def _finish(self, consume: Callable[[Event], None]) -> str:
        self.books.evaluation_due()  # the last one always is
        evaluation = self.evaluate(consume)
        if not evaluation.complete:
            return INTERRUPTED
        consume(Evaluated(evaluation))
        self.books.meter.lap("io")
        return FINISHED

    def evaluate(self, consume: Callable[[Event], None]) -> Evaluation:
        """Play the evaluation that is due and hand on its heartbeats."""
        return played_out(self.books.evaluate(self), consume)

    def greedy(self, obs: NDArray[Any]) -> NDArray[np.int64]:
        return self.model.predict(obs, deterministic=True)[0].astype(np.int64)

    def params_sha256(self) -> list[str]:
        """Of every tensor of the policy, in its order; a target network is among them."""
        tensors = self.model.policy.state_dict().values()
        return [hashlib.sha256(b"".join(tensor.cpu().numpy().tobytes() for tensor in tensors)).hexdigest()]

    def state(self) -> State | None:
        """None: the library saves replay and settings as pickles, and neither rollouts nor generators. It starts again instead."""
        return None

    def restore(self, store: Store, manifest: Manifest) -> None:
        raise ValueError("stable-baselines3's agents have no checkpoints to continue from")

    def save(self, seed_index: int, file: BinaryIO) -> None:
        """The library's own format: ``DQN.load`` reads it."""
        self.model.save(file)  # type: ignore[arg-type]


class BudgetUsedUp(Exception):
    """The steps of the last rollout were learned from, and no further step may be played.

    No error: the library's loop has no other way out between two rollouts.
    """


class Bookkeeper(BaseCallback):
    """Counts, hands on events and ends the run; changes nothing that is learned."""

    def __init__(self, trainer: BaselineTrainer, books: Books, env: WorldVecEnv, consume: Callable[[Event], None]) -> None:
        super().__init__()
        self.trainer, self.books, self.env, self.consume = trainer, books, env, consume
        self.status = RUNNING
        self.acted = 0  # observations that the network chose an action for; random actions ask no network
        self.valued = 0  # observations that the critic alone looked at (PPO: where a rollout or a truncated game is cut)
        self.cut = 0  # games that the latest step truncated; PPO's critic looks at their last observations after the callback
        self.counting = True
        self.rollout_steps = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hooks on the network that acts and on the optimiser: exact counts of forward passes and gradient steps."""
        policy: Any = self.trainer.model.policy
        acting = getattr(policy, "q_net", None) or getattr(policy, "quantile_net", None) or policy
        handles = [acting.register_forward_hook(self._forward), policy.optimizer.register_step_post_hook(self._updated)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _forward(self, module: Any, arguments: tuple[Any, ...], output: Any) -> None:
        if self.counting and not torch.is_grad_enabled():
            self.acted += len(arguments[0])

    def _updated(self, *_: Any) -> None:
        self.books.counters.updates += 1
        if self.books.heartbeat_due():  # a phase of learning can take longer than a heartbeat
            self.books.meter.lap("learn")
            self._beat()

    def _on_training_start(self) -> None:
        self.books.opened()

    def _on_rollout_start(self) -> None:
        self.books.meter.lap("learn")
        self.rollout_steps = 0
        if self.books.used_up:
            raise BudgetUsedUp

    def _on_step(self) -> bool:
        """Book the step; False ends the run before it is learned from."""
        books = self.books
        self.rollout_steps += 1
        books.counters.steps = self.num_timesteps
        self._count_flops()
        self.cut = sum(info["TimeLimit.truncated"] for info in self.locals["infos"])
        for episode in books.stepped(*self.env.last_step):
            self.consume(episode)
        if books.heartbeat_due():
            self._beat()
        if books.stop():
            return self._end(INTERRUPTED)
        if books.used_up:  # the last evaluation comes when everything is learned
            return self._rollout_is_complete() or self._end(FINISHED)
        if books.evaluation_due():
            self.counting = False
            evaluation = self.trainer.evaluate(self.consume)
            self.counting = True
            if not evaluation.complete:
                return self._end(INTERRUPTED)
            self.consume(Evaluated(evaluation))
            books.meter.lap("io")
        return True

    def _on_rollout_end(self) -> None:
        if isinstance(self.trainer.config, PpoConfig):
            self.valued += self.env.num_envs
        self._count_flops()

    def _count_flops(self) -> None:
        self.valued += self.cut if isinstance(self.trainer.config, PpoConfig) else 0
        self.cut = 0
        counters = self.books.counters
        counters.act_flops = self.acted * counters.costs[0].forward + self.valued * self.trainer.value_flops

    def _rollout_is_complete(self) -> bool:
        config = self.trainer.config
        return self.rollout_steps >= (config.n_steps if isinstance(config, PpoConfig) else config.train_freq)

    def _end(self, status: str) -> bool:
        self.status = status
        return False

    def _beat(self) -> None:
        logged = self.logger.name_to_value
        learning = {name.removeprefix("train/"): [float(value)] for name, value in logged.items() if name.startswith("train/")}
        epsilon = getattr(self.model, "exploration_rate", None)
        self.consume(Heartbeat(learning if epsilon is None else learning | {"epsilon": [epsilon]}))
        self.books.meter.lap("io")


def algorithm_of(name: str) -> type[BaseAlgorithm]:
    """The library's class. Raises InputError where its package is not installed."""
    package, _, cls = baseline(name).implementation.rpartition(".")
    try:
        return getattr(importlib.import_module(package), cls)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        distribution = package.replace("_", "-")
        raise InputError(f"{name} needs the package {distribution}: pip install 'playmeter[baselines]'") from error


def check(job: Job, config: BaselineConfig) -> None:
    """Raise InputError for what cannot work on this environment or with this budget."""
    if config.policy == "CnnPolicy" and job.env_spec.kind != "atari":
        raise InputError(
            f"stable-baselines3's CnnPolicy needs images of 36x36 at least, which {job.env_spec.id} has not: --sb3.policy MlpPolicy"
        )
    if isinstance(config, PpoConfig):
        rollout = config.n_steps * config.n_envs
        if (steps := expected_steps(job.budget, job.env_spec)) is not None and steps < rollout:
            raise InputError(f"a budget of {job.budget} ends before the first update, after {rollout:,} steps: give more")
        return
    check_warm_up(job.budget, job.env_spec, config.learning_starts, "--sb3.learning-starts")


def schedule_steps(job: Job) -> int:
    """What the schedules run over: the budget, or the steps of the zoo's runs."""
    expected = expected_steps(job.budget, job.env_spec)
    if expected is not None:
        return max(1, round(expected))
    usual = baseline(job.config.agent).usual_steps[DOMAINS[job.env_spec.kind]]
    job.notice(
        f"a budget of {job.budget} does not say how many steps: schedules run over {usual:,}, or say --sb3.schedule-steps"
    )
    return usual


def build(
    algorithm: type[BaseAlgorithm], config: BaselineConfig, env: VecEnv, limit_steps: int, *, seed: int | None, device: str
) -> BaseAlgorithm:
    """The library's model. Its schedules count in shares of ``limit_steps``, ours in ``schedule_steps``."""
    share = (config.schedule_steps or limit_steps) / limit_steps
    options: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in OURS}
    options["policy_kwargs"] = {} if config.net_arch is None else {"net_arch": list(config.net_arch)}
    if config.learning_rate_schedule == "linear":
        options["learning_rate"] = LinearSchedule(config.learning_rate, 0.0, share)
    if isinstance(config, PpoConfig):
        if config.clip_range_schedule == "linear":
            options["clip_range"] = LinearSchedule(config.clip_range, 0.0, share)
    else:
        options["exploration_fraction"] = config.exploration_fraction * share
        options["buffer_size"] = min(config.buffer_size, limit_steps + 4 * env.num_envs)  # one that is never full is the same
        if config.optimize_memory_usage:
            options["replay_buffer_kwargs"] = {"handle_timeout_termination": False}
        check_buffer(config.optimize_memory_usage, options["buffer_size"], env)
    if isinstance(config, QrdqnConfig):
        options["policy_kwargs"]["n_quantiles"] = config.n_quantiles
    return algorithm(config.policy, env, seed=seed, device=device, verbose=0, **options)


def check_buffer(optimized: bool, buffer_size: int, env: VecEnv) -> None:
    space = env.observation_space
    assert isinstance(space, gymnasium.spaces.Box)
    step_bytes = int(np.prod(space.shape)) * space.dtype.itemsize * (1 if optimized else 2)
    check_free_memory(buffer_size * step_bytes, torch.device("cpu"), buffer_size, "--sb3.buffer-size")


def flop_costs(algorithm: type[BaseAlgorithm], config: BaselineConfig, world: World) -> tuple[FlopCosts, int]:
    """Count acting, evaluating and the library's own ``train`` on a small model of the same shapes; last, one look of PPO's critic."""
    ppo = isinstance(config, PpoConfig)
    model = small_model(algorithm, config, world)
    obs = np.zeros((1, *(world.single_observation_space.shape or ())), world.single_observation_space.dtype)
    policy, tensor = model.policy, obs_as_tensor(obs, model.device)
    with torch.no_grad():
        eval_forward = counted(lambda: policy.predict(obs, deterministic=True))
        forward = counted(lambda: policy(tensor)) if ppo else eval_forward
        value = counted(lambda: policy.predict_values(tensor)) if ppo else 0
    if ppo:
        model.rollout_buffer.full = True
        update = counted(model.train)
    else:
        model.replay_buffer.full = True
        update = counted(lambda: model.train(gradient_steps=1, batch_size=TWO))
    return FlopCosts(forward, update * config.batch_size // TWO, eval_forward), value


def small_model(algorithm: type[BaseAlgorithm], config: BaselineConfig, world: World) -> Any:
    """A model with the networks of ``config`` and room for two transitions: a pass over the two alone, and nothing that could end it early."""
    env = DummyVecEnv([lambda: SpacesOnly(world)])
    ppo = isinstance(config, PpoConfig)
    small = {"n_steps": TWO, "n_epochs": 1, "target_kl": None} if ppo else {"buffer_size": 8, "gradient_steps": 1, "n_steps": 1}
    model = build(algorithm, replace(config, n_envs=1, batch_size=TWO, **small), env, OPEN_END_STEPS, seed=None, device="cpu")
    model.set_logger(Logger(None, []))
    return model


def final_policy(file: Path, record: RunRecord) -> Any:
    """The policy of a finished agent: the tensors of its file in the network that its run's settings describe.

    Nothing in the file is executed; the library's own ``load`` would unpickle what stands beside the tensors.

    Raises:
        InputError: it cannot be loaded, or is not of such a network.
    """
    algorithm, defaults = algorithm_of(record.agent), baseline(record.agent).defaults
    try:
        parts: Any = load_from_zip_file(file, load_data=False, device="cpu")[1]
        tensors: dict[str, Tensor] = dict(parts["policy"])
    except Exception as error:  # whatever a damaged archive makes of its reading
        raise unloadable(file, error) from error
    there: dict[str, Any] = {name: record.agent_config[name] for name in NETWORK if name in record.agent_config}
    world = make([record.env.id], 1, [record.seed], protocol=record.env.protocol, evaluation=True)
    try:
        check_widths(there, tensors)
        policy = small_model(algorithm, replace(defaults, **there), world).policy
        policy.load_state_dict(tensors)
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{file} is not of the network that its run.json describes: it is another run's") from error
    finally:
        world.close()
    return policy


def check_widths(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """No network is made that is larger than the file that is to fill it. Raises ValueError."""
    widths = [*(settings.get("net_arch") or ()), settings.get("n_quantiles", 1)]
    if max(a * b for a, b in pairwise([1, *widths])) > sum(tensor.numel() for tensor in tensors.values()):
        raise ValueError(f"there are not as many numbers as layers of {widths} have")


def counted(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


class SpacesOnly(gymnasium.Env[Any, Any]):
    """What a model needs to know of an environment that it never plays."""

    def __init__(self, world: World) -> None:
        self.observation_space, self.action_space = world.single_observation_space, world.single_action_space
