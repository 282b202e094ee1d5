"""Where measurements wait in the step until `fit` fetches them."""

from keras import ops

from keras_optkit import _backend
from keras_optkit.optimizers._slots import read


class Store:
    """The last measurements, in variables of an optimizer.

    Args:
        optimizer: Whose variables they become.
        rows: How many measurements to keep.
        layers: How many layers each has.
        columns: How many numbers each layer has.
        bins: How many bins of a histogram, or 0.
    """

    def __init__(self, optimizer, rows: int, layers: int, columns: int, bins: int):
        add = optimizer.add_variable
        self.rows = rows
        self.results = add((rows, layers, columns), dtype="float32", name="results")
        self.histograms = add((rows, layers, bins), dtype="int", name="histograms")
        self.steps = add((rows,), dtype="int", name="steps")
        self.count = add((), dtype="int", name="count")
        self.variables = [self.results, self.histograms, self.steps, self.count]

    def write(self, step, values, counts, due) -> None:
        """Adds a measurement, if it is `due`, in the place of the oldest one."""
        count = read(self.count)
        here = ops.arange(self.rows) == ops.cast(count % self.rows, "int32")
        here = ops.logical_and(here, due)
        table = here[:, None, None]
        news = [
            ops.where(table, values[None], read(self.results)),
            ops.where(table, counts[None], read(self.histograms)),
            ops.where(here, ops.cast(step, self.steps.dtype), read(self.steps)),
            count + ops.cast(due, count.dtype),
        ]
        _backend.assign(self.variables, news)
