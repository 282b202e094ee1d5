"""The checks that the optimizers of this package pass, for yours."""

from collections.abc import Callable

import keras

from keras_optkit.testing._checks import CHECKS as CHECKS


def check_optimizer(factory: Callable[..., keras.optimizers.Optimizer]) -> list[str]:
    """Checks that an optimizer behaves wherever Keras takes one, on the running backend.

    It trains tiny models, saves and reloads them, and so on; each function in `CHECKS` says what
    it looks at. The rule itself is yours to test: compare it with its paper, step by step.

    Args:
        factory: The class, if its defaults make weights of size 1 move visibly, or a function
            that makes a new optimizer each time and passes keyword arguments on to it.

    Returns:
        The names of the checks that ran.

    Raises:
        AssertionError: If a check fails, with its name and what it found.

    Example:
        ```python
        def test_my_optimizer():
            check_optimizer(lambda **kwargs: MyOptimizer(0.01, **kwargs))
        ```
    """
    for check in CHECKS:
        try:
            check(factory)
        except AssertionError as error:
            raise AssertionError(f"{check.__name__}: {check.__doc__}\n{error}") from error
    return [check.__name__ for check in CHECKS]
