"""What every gradient transform is."""

from collections.abc import Sequence
from typing import Any

from keras_optkit import _match
from keras_optkit._config import Configurable


class Transform(Configurable):
    """Base of the gradient transforms: one pure function over all gradients of a step.

    An optimizer calls it after gradients are unscaled, accumulated and summed over replicas, so
    it sees what a single device would see. A subclass writes `__call__` with `keras.ops` only,
    without branching on the value of a tensor, and stores its constructor's arguments under
    their own names; decorate it with `keras.saving.register_keras_serializable` to save it.

    Example:
        >>> class Halve(keras_optkit.transforms.Transform):
        ...     def __call__(self, gradients, variables, step):
        ...         return [gradient / 2 for gradient in gradients]
        >>> Halve()
        Halve()
    """

    exclude: tuple[str, ...] = ()

    def build(self, variables: Sequence[Any]) -> None:
        """Called once, with the variables; warns of patterns in `exclude` that match none."""
        paths = [_match.path(variable) for variable in variables]
        _match.warn_unmatched(type(self).__name__, self.exclude, paths)

    def __call__(self, gradients: list[Any], variables: Sequence[Any], step: Any) -> list[Any]:
        """Returns new gradients.

        Args:
            gradients: Dense tensors, float32 or wider, one for each of `variables`.
            variables: Keras variables, to read only, with `ops.convert_to_tensor(variable)`.
            step: A float32 scalar that counts updates from 1.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define `__call__(self, gradients, variables, step)` and "
            "return the new gradients as a list."
        )
