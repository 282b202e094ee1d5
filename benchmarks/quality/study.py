"""Tunes an optimizer on a workload, then measures it on seeds that the tuning has not seen."""

import functools
import math
import time

import jax
import keras
import numpy as np

from keras_optkit.schedules import Warmup
from quality.contestants import CONTESTANTS, Contestant, Fuel
from quality.workloads import WORKLOADS, Workload

TUNING_SEEDS = (1000, 1001, 1002)


def quantiles(trials: int, shift: int) -> np.ndarray:
    """Returns random places in both ranges, `[trials, 2]`, one in each `trials`-th of a range."""
    rng = np.random.default_rng(3 + shift)
    strata = np.stack([rng.permutation(trials) for _ in range(2)], 1)
    return (strata + rng.uniform(size=strata.shape)) / trials


def settings(contestant: Contestant, trials: int) -> list[tuple[float, float]]:
    """Returns the rates and decays to try: the same quantiles for all of one `shift`."""
    (low, high), (least, most) = contestant.ranges().values()
    return [
        (low * (high / low) ** q, least * (most / least) ** p)
        for q, p in quantiles(trials, contestant.shift).tolist()
    ]


@functools.cache
def shape(steps: int, decays: bool) -> np.ndarray:
    """Returns the learning rate of each step as a factor: a warmup over a tenth, then a cosine."""
    warmup = steps // 10
    cosine = keras.optimizers.schedules.CosineDecay(1.0, steps - warmup)
    schedule = Warmup(cosine if decays else 1.0, steps=warmup)
    return np.array([float(schedule(step)) for step in range(steps)], "float32")


@functools.cache
def start(workload: str, seed: int) -> list:
    """Returns initial weights."""
    keras.utils.set_random_seed(seed)
    return [v.value for v in WORKLOADS[workload].model().trainable_variables]


def batches(workload: Workload, seed: int) -> np.ndarray:
    """Returns the samples of each step, in an order of their own in each epoch."""
    rng = np.random.default_rng(seed)
    count = len(workload.data()[0])
    epochs = math.ceil(workload.steps * workload.batch / (count // workload.batch * workload.batch))
    used = count // workload.batch * workload.batch
    order = np.concatenate([rng.permutation(count)[:used] for _ in range(epochs)])
    return order[: workload.steps * workload.batch].reshape(workload.steps, -1).astype("int32")


class Trainer:
    """Trains one workload by one optimizer; compiled once for all settings and seeds."""

    def __init__(self, workload: Workload, contestant: Contestant):
        self._workload, self._contestant = workload, contestant
        self._model = model = workload.model()
        fuel = Fuel(contestant, workload.steps)
        self._optimizer = optimizer = fuel.optimizer
        optimizer.build(model.trainable_variables)
        self._fresh = [np.array(v) for v in optimizer.variables]
        wrapped = contestant.model_wrapper and contestant.model_wrapper(model)
        self._data = [jax.numpy.asarray(a) for a in workload.data()]
        self.seconds: list[float] = []  # a step, of each chunk
        others = [np.array(v) for v in model.non_trainable_variables]  # the LSTM's unused seed

        def chunk(weights, slots, x, y, indices, rates, decay, growth):
            def step(state, now):
                weights, slots = state
                index, rate = now

                def loss(weights):
                    output, _ = model.stateless_call(weights, others, x[index], training=True)
                    return workload.loss(y[index], output)

                gradients = jax.grad(loss)(weights)
                if wrapped:
                    gradients = wrapped.change_gradients(gradients, weights, jax.grad(loss))
                fuel.feed(rate, decay, growth)
                return tuple(map(list, optimizer.stateless_apply(slots, gradients, weights))), None

            return jax.lax.scan(step, (weights, slots), (indices, rates))[0]

        def measure(weights, x, y):
            return workload.measure(y, model.stateless_call(weights, others, x)[0])

        self._chunk, self._measure = jax.jit(chunk), jax.jit(measure)

    def train(self, seed: int, rate: float, decay: float) -> list[float]:
        """Returns the metric before the first step and after every `every`-th."""
        x, y, *held_out = self._data
        weights, slots = start(self._workload.name, seed), list(map(jax.numpy.array, self._fresh))
        indices = batches(self._workload, seed)
        rates = shape(self._workload.steps, self._contestant.decays)
        growth = np.float32(rate)
        if not self._contestant.tunes_growth:
            rates = rates * growth
        curve = [float(self._measure(weights, *held_out))]
        for at in range(0, self._workload.steps, self._workload.every):
            now = slice(at, at + self._workload.every)
            begin = time.process_time()
            weights, slots = jax.block_until_ready(
                self._chunk(
                    weights, slots, x, y, indices[now], rates[now], np.float32(decay), growth
                )
            )
            self.seconds.append((time.process_time() - begin) / self._workload.every)
            curve.append(float(self._measure(self._evaluated(weights, slots), *held_out)))
        return curve

    def _evaluated(self, weights: list, slots: list) -> list:
        """Returns the weights to evaluate, which for some optimizers are not those it trains."""
        if not hasattr(self._optimizer, "use_evaluation_weights"):
            return weights
        variables = self._model.trainable_variables
        pairs = zip([*variables, *self._optimizer.variables], [*weights, *slots], strict=True)
        for variable, value in pairs:
            variable.assign(value)
        self._optimizer.use_evaluation_weights()
        return [v.value for v in variables]


def best(curve: list[float]) -> float:
    """Returns the lowest value after the start; infinite if there is none."""
    return min((v for v in curve[1:] if math.isfinite(v)), default=math.inf)


def score(curve: list[float]) -> tuple[float, float]:
    """Returns what to compare trials by, lower being better.

    Among equals, such as accuracies of few samples, the one that was better on the way.
    """
    return best(curve), float(np.mean(np.nan_to_num(curve, nan=1e9, posinf=1e9)))


def tune(trainer: Trainer, tried: list[tuple[float, float]], shift: int) -> tuple[list[float], int]:
    """Returns the best metric of each trial, and which to take.

    The three best are tried again on two other seeds, so that one that went well by luck, next to
    where training diverges, is not taken.
    """
    seed, *others = (seed + shift for seed in TUNING_SEEDS)
    scores = [score(trainer.train(seed, *setting)) for setting in tried]
    finalists = sorted(range(len(tried)), key=scores.__getitem__)[:3]

    def mean(trial):
        again = [score(trainer.train(seed, *tried[trial])) for seed in others]
        return tuple(np.mean([scores[trial], *again], axis=0))

    return [first for first, _ in scores], min(finalists, key=mean)


def study(workload: str, optimizer: str, trials: int, seeds: int) -> dict:
    """Returns what one optimizer reaches on one workload."""
    began = time.time()
    contestant = CONTESTANTS[optimizer]
    trainer = Trainer(WORKLOADS[workload], contestant)
    tried = settings(contestant, trials)
    bests, chosen = tune(trainer, tried, contestant.shift)
    held_out = range(contestant.shift, contestant.shift + seeds)
    curves = [trainer.train(seed, *tried[chosen]) for seed in held_out]
    return {
        "workload": workload,
        "optimizer": optimizer,
        "trials": [
            {"rate": _short(rate), "decay": _short(decay), "best": _short(value)}
            for (rate, decay), value in zip(tried, bests, strict=True)
        ],
        "chosen": chosen,
        "seconds_per_step": _short(min(trainer.seconds)),
        "curves": [[_short(v) for v in curve] for curve in curves],
        "took": round(time.time() - began, 1),
    }


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
