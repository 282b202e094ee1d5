"""Where pictures are drawn."""

from typing import Any


def axes_or_current(axes: Any) -> Any:
    """Returns matplotlib axes: those given, or the current ones."""
    if axes is not None:
        return axes
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "`plot` needs matplotlib, which is not installed. To install it: "
            'pip install "keras_optkit[plots]"'
        ) from error
    return plt.gca()
