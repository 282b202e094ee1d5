"""Weights that train by other settings than the rest."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_optkit import _check, _match
from keras_optkit._config import Configurable
from keras_optkit._registry import register


@register
class Group(Configurable):
    """Other settings for some of the weights: a learning rate, a decay, or no training at all.

    Give an optimizer any number of groups. A weight may be in several: their multipliers
    multiply, the last decay given counts, and one `frozen` is enough.

    Args:
        pattern: A regular expression, or a list of them, each for whole segments of a weight's
            path: `"bias"` is every bias, `"encoder"` all below the layer of that name,
            `"block1/conv.*"` its convolutions. Or a function from a `keras.Variable` to a bool,
            which a saved model holds only if it is registered with Keras.
        lr_multiplier: Factor of the learning rate, 0 or more. Decoupled weight decay is
            multiplied by the learning rate, so it scales too.
        weight_decay: The decay of these weights, 0 or more; None keeps the optimizer's.
        frozen: Whether to leave the weights and their state alone; their gradients do not count
            in global norms either.

    Example:
        >>> backbone = keras_optkit.optimizers.Group("backbone", lr_multiplier=0.1)
        >>> optimizer = keras_optkit.optimizers.RAdam(1e-3, groups=[backbone])
    """

    def __init__(
        self,
        pattern: str | Sequence[str] | Callable[[Any], bool],
        lr_multiplier: float = 1.0,
        weight_decay: float | None = None,
        frozen: bool = False,
    ):
        self.pattern = pattern if callable(pattern) else _check.patterns("pattern", pattern)
        if not self.pattern:
            raise ValueError(f"`pattern` must name at least one. {_check.received('pattern', ())}")
        self.lr_multiplier = _check.in_range("lr_multiplier", lr_multiplier, low=0)
        self.weight_decay = (
            None if weight_decay is None else _check.in_range("weight_decay", weight_decay, low=0)
        )
        self.frozen = _check.flag("frozen", frozen)

    def holds(self, variable) -> bool:
        """Tells whether `variable` is in the group."""
        if callable(self.pattern):
            return bool(self.pattern(variable))
        return _match.matches(self.pattern, _match.path(variable))

    def warn_unmatched(self, variables) -> None:
        """Warns of each pattern that no variable matches."""
        paths = [_match.path(v) for v in variables]
        if not callable(self.pattern):
            _match.warn_unmatched("Group", self.pattern, paths)
        elif not any(self.holds(v) for v in variables):
            _match.warn_unmatched("Group", [repr(self.pattern)], paths)


def no_decay_groups(model: keras.Model) -> list[Group]:
    """Returns a group that takes weight decay off biases, normalization weights and scales.

    These are the trainable weights of fewer than two dimensions, whose size says nothing of how
    complex a function is; decaying them costs accuracy.

    Args:
        model: A built model.

    Raises:
        ValueError: If `model` is not built.

    Example:
        >>> groups = keras_optkit.optimizers.no_decay_groups(model)
        >>> optimizer = keras_optkit.optimizers.RAdam(1e-3, weight_decay=0.01, groups=groups)

    Reference:
        [He et al., 2019](https://arxiv.org/abs/1812.01187), section 3.1, "No bias decay".
    """
    _require_built(model)
    flat = [v for v in model.trainable_variables if len(v.shape) < 2]
    paths = [_match.literal(v.path, model.name) for v in flat]
    return [Group(paths, weight_decay=0.0)] if paths else []


def layer_decay(model: keras.Model, decay: float) -> list[Group]:
    """Returns groups that train a layer the slower the further it is from the output.

    For fine-tuning: early layers hold general features, so they should move least. The last
    layer with weights keeps the learning rate, the one before it gets `decay` times it, the one
    before that `decay ** 2`.

    Args:
        model: A built model; the order of `model.layers` is the depth.
        decay: Factor per layer, in (0, 1]; 0.65 to 0.95 is usual.

    Raises:
        ValueError: If `model` is not built or `decay` is out of range.

    Example:
        >>> groups = keras_optkit.optimizers.layer_decay(model, 0.8)

    Reference:
        [Clark et al., 2020](https://arxiv.org/abs/2003.10555), appendix A.
    """
    _require_built(model)
    decay = _check.in_range("decay", decay, 0, 1, closed="right")
    layers = [layer for layer in model.layers if layer.trainable_variables]
    groups = []
    for depth, layer in enumerate(reversed(layers)):
        paths = [_match.literal(v.path, model.name) for v in layer.trainable_variables]
        groups.append(Group(paths, lr_multiplier=decay**depth))
    return groups[::-1]


def _require_built(model: keras.Model) -> None:
    _check.instance("model", model, keras.Model, "a keras.Model")
    if not model.built:
        raise ValueError(
            f"`model` must be built, so that it has weights to group. Call it on a batch, or give "
            f"it a keras.Input, first. {_check.received('model', model.name)}"
        )
