"""The optimizers, and where their learning rate and decay are searched for."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras.optimizers import SGD, AdamW, Lion

from keras_optkit import optimizers as ours

SPAN = {"rate": (1 / 2, 100.0), "decay": (1 / 30, 30.0)}  # times the usual: short runs are fast


class Fed(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that says whatever it was given last, also a value being traced."""

    value = 1e-3

    def __call__(self, step):
        return self.value


@dataclass(frozen=True)
class Contestant:
    """How to make an optimizer, and the usual values of its tuned arguments."""

    name: str
    make: Callable[..., keras.optimizers.Optimizer]
    rate: float = 1e-3
    decay: float = 1e-2
    decays: bool = True  # does the rate fall to zero by a cosine?
    tunes_growth: bool = False  # is `growth` tuned in place of the learning rate?
    model_wrapper: Callable[..., keras.Model] | None = None  # what changes the gradients, if any
    shift: int = 0  # of all seeds: to see how far the same optimizer differs from itself

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Returns the ranges, uniform in the logarithm, of the two tuned arguments."""
        usual = {"rate": self.rate, "decay": self.decay}
        return {name: (usual[name] * low, usual[name] * high) for name, (low, high) in SPAN.items()}


class Fuel:
    """Makes an optimizer whose tuned arguments can be fed in a compiled step."""

    def __init__(self, contestant: Contestant, steps: int):
        self._rate, self._decay = Fed(), Fed()
        self.optimizer = contestant.make(self._rate, self._decay, steps)
        self._rule = getattr(self.optimizer, "rule", self.optimizer)

    def feed(self, rate, decay, growth):
        self._rate.value, self._decay.value = rate, decay
        if not type(self._rule).__module__.startswith("keras_optkit"):  # Keras' own, a number
            self._rule.weight_decay = decay
        if isinstance(self._rule, ours.Prodigy):
            self._rule.growth = growth


def _of(rule, **arguments):
    return lambda rate, decay, steps: rule(rate, weight_decay=decay, **arguments)


def _keras(rule, **arguments):
    return lambda rate, decay, steps: rule(rate, weight_decay=1e-3, **arguments)


def _ademamix(rate, decay, steps):
    warmups = {"alpha_warmup": steps, "beta_3_warmup": steps}
    return ours.AdEMAMix(rate, weight_decay=decay, **warmups)


def _around(wrapper):
    return lambda rate, decay, steps: wrapper(_keras(AdamW)(rate, decay, steps))


YARDSTICK = "AdamW (Keras)"

CONTESTANTS = {
    c.name: c
    for c in (
        Contestant(YARDSTICK, _keras(AdamW)),
        Contestant("AdamW (Keras), again", _keras(AdamW), shift=10),
        Contestant("SGD, Nesterov (Keras)", _keras(SGD, momentum=0.9, nesterov=True), 5e-3, 1e-3),
        Contestant("Lion (Keras)", _keras(Lion, beta_2=0.99), 1e-4, 1e-1),
        Contestant("RAdam", _of(ours.RAdam)),
        Contestant("RAdam, cautious", _of(ours.RAdam, cautious=True)),
        Contestant("LARS", _of(ours.LARS), 0.3, 1e-3),
        Contestant("LARS, trust 0.02", _of(ours.LARS, trust_coefficient=0.02), 5e-3, 1e-3),
        Contestant("LAMB", _of(ours.LAMB)),
        Contestant("Lookahead(AdamW)", _around(ours.Lookahead)),
        Contestant("Averaged(AdamW)", _around(ours.Averaged), decays=False),
        Contestant("ScheduleFreeAdamW", _of(ours.ScheduleFreeAdamW), 2.5e-3, decays=False),
        Contestant("ScheduleFreeSGD", _of(ours.ScheduleFreeSGD), 0.1, 1e-3, decays=False),
        Contestant("Muon", _of(ours.Muon)),
        Contestant("SOAP", _of(ours.SOAP)),
        Contestant("Prodigy", _of(ours.Prodigy), 0.1, tunes_growth=True),
        Contestant("AdaBelief", _of(ours.AdaBelief)),
        Contestant("Adan", _of(ours.Adan), 3e-3),
        Contestant("ADOPT", _of(ours.ADOPT)),
        Contestant("AdEMAMix", _ademamix),
        Contestant("NovoGrad", _of(ours.NovoGrad), 3e-3, 1e-3),
        Contestant("Yogi", _of(ours.Yogi), 3e-3),
        Contestant("SAM with AdamW", _keras(AdamW), model_wrapper=ours.SAM),
    )
}
