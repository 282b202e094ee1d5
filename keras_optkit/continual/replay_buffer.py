"""A memory of past samples."""

import os
from typing import Any, Literal

import numpy as np

from keras_optkit import _check
from keras_optkit._config import Configurable
from keras_optkit._registry import register
from keras_optkit.continual import _buffer_file
from keras_optkit.continual._labels import labels_of
from keras_optkit.continual._policies import POLICIES
from keras_optkit.continual._storage import Samples, Storage


@register
class ReplayBuffer(Configurable):
    """Keeps some of the samples it is shown, to train on again while later tasks are learned.

    It lives in the computer's memory, as NumPy arrays that the first `add` allocates in full.
    Once `capacity` samples are in it, the policy decides about each further one:

    ```text
    "reservoir"       after t samples each of them is kept with probability capacity / t
    "class_balanced"  a class that was never the largest takes the place of a random sample of the
                      largest; of the others, each of the n seen is kept with probability m / n,
                      where m are kept
    "ring"            the newest samples of each class: replaces the oldest of its own class, or
                      of the largest class while that has at least two more
    ```

    Where several processes train one model, each keeps samples of its own share of the data: give
    each its part of `capacity`, as `seed` the number of the process, and a file of its own.

    What is kept depends on the order of the samples and on `seed`, and not on how they are
    divided into calls of `add`, nor on `sample`.

    Args:
        capacity: Most samples to hold, at least 1.
        policy: Which to keep: `"reservoir"`, `"class_balanced"` or `"ring"`.
        seed: Of the random numbers, for keeping and for `sample`; 0 or more.
        max_bytes: Most bytes the kept samples may take; the first `add` raises if `capacity`
            of them would take more. None for no limit.

    Example:
        >>> buffer = keras_optkit.continual.ReplayBuffer(5)
        >>> buffer.add(x, y)
        >>> len(buffer), buffer.seen
        (5, 8)
        >>> old_x, old_y = buffer.sample(3)
        >>> old_x.shape
        (3, 4)

    Reference:
        [Vitter, 1985](https://doi.org/10.1145/3147.3165), algorithm R.
        [Chrysakis & Moens, 2020](https://proceedings.mlr.press/v119/chrysakis20a.html), algorithm
        1, CBRS; that of GDumb keeps the first samples of each class instead of random ones.
        [Chaudhry et al., 2019](https://arxiv.org/abs/1902.10486), "ring buffer", where the number
        of classes must be known; here their shares shrink as classes appear.
    """

    def __init__(
        self,
        capacity: int,
        policy: Literal["reservoir", "class_balanced", "ring"] = "reservoir",
        seed: int = 0,
        max_bytes: int | None = None,
    ):
        self.capacity = _check.integer("capacity", capacity, low=1)
        self.policy = _check.one_of("policy", policy, POLICIES)
        self.seed = _check.integer("seed", seed, low=0)
        self.max_bytes = (
            None if max_bytes is None else _check.integer("max_bytes", max_bytes, low=1)
        )
        self.clear()

    def clear(self) -> None:
        """Forgets all samples; the buffer is then as new, random numbers included."""
        self._storage = Storage(self.capacity, self.max_bytes)
        self._policy = POLICIES[self.policy](self.capacity)
        # Two streams, so that sampling does not change what is kept.
        self._keeping, self._sampling = (
            np.random.Generator(np.random.PCG64(sequence))
            for sequence in np.random.SeedSequence(self.seed).spawn(2)
        )

    def add(self, x: Any, y: Any = None, **extras: Any) -> None:
        """Shows samples to the buffer, which keeps those that its policy wants.

        Args:
            x: Inputs: an array with one row for each sample, or a dict, tuple or list of arrays.
            y: Targets, likewise. The policies by class need one label for each sample, or one
                row with the largest number at its class (one-hot).
            **extras: More to keep with each sample, such as `logits=` or `sample_weight=`.

        Raises:
            TypeError: If an array does not hold numbers.
            ValueError: If structure, shapes or dtypes are not those of the samples before, or if
                the samples would take more than `max_bytes`. The buffer is then as before.
        """
        self._add(x, y, **extras)

    def _add(self, x: Any, y: Any, **extras: Any) -> np.ndarray:
        """Does what `add` does, and returns the place of each sample, -1 if it is not kept."""
        samples = self.check(x, y, **extras)
        count = len(samples.arrays[0])
        labels = [None] * count
        if self._policy.needs_labels:
            labels = labels_of(y, f'policy="{self.policy}"').tolist()
        self._storage.allocate(samples)
        draws = self._keeping.random((count, self._policy.draws))
        places = self._policy.place(labels, draws)
        self._storage.write(samples, places)
        return places

    def check(self, x: Any, y: Any = None, **extras: Any) -> Samples:
        """Raises what `add` would raise, apart from labels and bytes; adds nothing."""
        return self._storage.check({"x": x, "y": y, **dict(sorted(extras.items()))})

    def sample(self, n: int, rng: Any = None) -> tuple:
        """Returns `n` of the samples, all equally likely, as `(x, y)` or `(x, y, extras)`.

        None is there twice, unless `n` is larger than the buffer; then all are drawn
        independently, so that there are always `n`.

        Args:
            n: How many, at least 1.
            rng: A `numpy.random.Generator` or a seed; by default the buffer's own generator, whose
                state is saved with it.

        Raises:
            ValueError: If the buffer is empty.
        """
        n = _check.integer("n", n, low=1)
        if not len(self):
            raise ValueError("The buffer is empty, so nothing can be sampled. Call `add` first.")
        rng = self._sampling if rng is None else np.random.default_rng(rng)
        return self._pair(self._draw(n, rng))

    def data(self) -> tuple:
        """Returns a copy of all samples, in the form of `sample`."""
        if not len(self):
            raise ValueError("The buffer is empty. Call `add` first.")
        return self._pair(np.arange(len(self)))

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    @property
    def seen(self) -> int:
        """How many samples the buffer has been shown."""
        return self._policy.seen

    @property
    def nbytes(self) -> int:
        """How many bytes the samples take, those of empty places included."""
        return self._storage.nbytes

    @property
    def extras(self) -> dict[str, Any]:
        """What is kept beside `x` and `y`, by name: views of all places, the empty ones too."""
        held = self._storage.rows(slice(None))
        return {name: value for name, value in held.items() if name not in ("x", "y")}

    def state(self) -> dict[str, Any]:
        """Returns all that `load_state` needs, as plain data and arrays."""
        structure, arrays, names = self._storage.held
        return {
            "config": self.get_config(),
            "structure": structure,
            "names": list(names),
            "arrays": [array[: len(self)].copy() for array in arrays],
            "policy": self._policy.state(),
            "random": [self._keeping.bit_generator.state, self._sampling.bit_generator.state],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Brings back what `state` returned; further samples and draws are then the same.

        Raises:
            ValueError: If the state is of a buffer with other arguments.
        """
        if state["config"] != self.get_config():
            raise ValueError(
                f"The state is of ReplayBuffer(**{state['config']}), but this is {self!r}. Make "
                "the buffer with the same arguments, or use ReplayBuffer.load for a file."
            )
        self.clear()
        samples = Samples(state["structure"], list(state["arrays"]), list(state["names"]))
        if samples.arrays:
            self._storage.allocate(samples)
            self._storage.write(samples, np.arange(len(samples.arrays[0])))
        self._policy.load_state(state["policy"])
        self._keeping.bit_generator.state, self._sampling.bit_generator.state = state["random"]

    def save(self, path: str | os.PathLike) -> None:
        """Writes samples and state to a file, whole or not at all.

        The file is an `.npz` with JSON inside; it is never unpickled.
        """
        _buffer_file.write(path, self.state())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ReplayBuffer":
        """Returns the buffer that `save` wrote; it goes on exactly like the one saved.

        Raises:
            ValueError: If the file holds something else, or not all of a buffer.
        """
        state = _buffer_file.read(path)
        buffer = cls.from_config(state["config"])
        buffer.load_state(state)
        return buffer

    def _draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Returns the places of `n` samples."""
        return rng.choice(len(self), n, replace=n > len(self))

    def _pair(self, which: np.ndarray) -> tuple:
        held = self._storage.rows(which)
        pair = (held.pop("x"), held.pop("y"))
        return (*pair, held) if held else pair
