"""What there is, by kind and name."""

import builtins
import fnmatch
import inspect
from types import ModuleType

import keras

from keras_optkit import _check
from keras_optkit.callbacks import Callback
from keras_optkit.compression import Method, SparsitySchedule
from keras_optkit.compression.distillation._loss import Loss as DistillationLoss
from keras_optkit.continual._penalty import Penalty
from keras_optkit.optimizers import Optimizer, Wrapper
from keras_optkit.schedules import Schedule
from keras_optkit.transforms import Transform

KINDS = {
    "optimizers": keras.optimizers.Optimizer,
    "wrappers": Wrapper,
    "schedules": Schedule,
    "transforms": Transform,
    "callbacks": keras.callbacks.Callback,
    "penalties": Penalty,
    "losses": keras.losses.Loss,
    "models": keras.Model,
    "distillation_losses": DistillationLoss,
    "pruning_methods": Method,
    "sparsity_schedules": SparsitySchedule,
    "functions": None,
}
BASES = {*KINDS.values(), Callback, Optimizer}


def list(kind: str | None = None, pattern: str = "*") -> builtins.list[str]:
    """Lists what this package has of one kind, by name, wherever it lies.

    Args:
        kind: `"optimizers"` (wrappers too), `"wrappers"`, `"schedules"`, `"transforms"`,
            `"callbacks"`, `"penalties"`, `"losses"`, `"models"`, `"distillation_losses"`,
            `"pruning_methods"`, `"sparsity_schedules"` or `"functions"`. None lists the kinds.
        pattern: What the names must look like: `*` stands for any characters, `?` for one, and
            capitals do not matter.

    Returns:
        The names, sorted without regard to capitals.

    Raises:
        ValueError: If there is no such kind.

    Example:
        >>> keras_optkit.list("optimizers", "ad*")
        ['AdaBelief', 'Adan', 'AdEMAMix', 'ADOPT']
        >>> keras_optkit.list("schedules", "*decay")
        ['LinearDecay', 'StepDecay', 'WarmupStableDecay']
    """
    if kind is None:
        return [*KINDS]
    base = KINDS[_check.one_of("kind", kind, KINDS)]
    pattern = _check.instance("pattern", pattern, str, "a string such as 'ad*'").lower()
    return sorted(
        {
            name
            for name, thing in _public().items()
            if fnmatch.fnmatchcase(name.lower(), pattern)
            and (
                inspect.isfunction(thing)
                if base is None
                else inspect.isclass(thing) and issubclass(thing, base) and thing not in BASES
            )
        },
        key=lambda name: (name.lower(), name),
    )


def _public() -> dict[str, object]:
    """Returns the public names of the subpackages, and what they stand for."""
    import keras_optkit

    return {
        name: thing
        for part_name, part in vars(keras_optkit).items()
        if isinstance(part, ModuleType) and not part_name.startswith("_")
        for name, thing in vars(part).items()
        if not name.startswith("_")
    }
