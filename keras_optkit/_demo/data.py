"""Real data that needs no download: the handwritten digits of scikit-learn."""

from typing import NamedTuple

import keras
import numpy as np

Part = tuple[np.ndarray, np.ndarray]


class Digits(NamedTuple):
    """Images of 8 x 8 pixels in [0, 1] and their labels, 0 to 9, in three parts."""

    train: Part
    validation: Part
    test: Part


def digits() -> Digits:
    """Returns the 1797 digits: 768 to train, 230 to validate, 799 to test; the same every time.

    A large test part tells optimizers apart better than a large training part would.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    y = labels.astype("int32")
    x, x_test, y, y_test = train_test_split(x, y, test_size=799, stratify=y, random_state=0)
    x, x_val, y, y_val = train_test_split(x, y, test_size=230, stratify=y, random_state=0)
    return Digits((x, y), (x_val, y_val), (x_test, y_test))


class Shuffled(keras.utils.PyDataset):
    """Batches in an order that depends on the seed and the epoch alone, not on what ran before.

    So a run that goes on at epoch 10 sees what it would have seen without the interruption.
    `fit` needs both this object and its `follow()`, which tells it the epoch, and `shuffle=False`.
    """

    def __init__(self, part: Part, batch_size: int, seed: int):
        super().__init__()
        self.x, self.y = part
        self.batch_size, self.seed = batch_size, seed
        self._reorder(0)

    def __len__(self):
        return len(self.x) // self.batch_size

    def __getitem__(self, index):
        chosen = self._order[index * self.batch_size :][: self.batch_size]
        return self.x[chosen], self.y[chosen]

    def follow(self) -> keras.callbacks.Callback:
        """Returns the callback that sets the order of each epoch."""
        return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: self._reorder(epoch))

    def _reorder(self, epoch: int) -> None:
        self._order = np.random.default_rng([self.seed, epoch]).permutation(len(self.x))
