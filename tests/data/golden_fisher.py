"""Writes `golden_fisher.npz`: the Fisher information of two small networks, by torch in float64.

    python -m tests.data.golden_fisher

Layers are written out, samples are differentiated one by one, and nothing of this package is used.
Weights have the shapes and the order that Keras gives them.
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".npz")
CLASSES, SAMPLES = 3, 5


def convolutional(weights, image):
    """Convolution of 3 by 3 with tanh, and a dense layer on what is flattened."""
    import torch

    kernel, bias, dense, dense_bias = weights
    found = torch.nn.functional.conv2d(image.permute(2, 0, 1)[None], kernel.permute(3, 2, 0, 1))
    hidden = torch.tanh(found[0].permute(1, 2, 0) + bias)
    return hidden.reshape(-1) @ dense + dense_bias


def attentive(weights, tokens):
    """Embedding, attention of one head, the mean over positions, and a dense layer."""
    import torch

    table, wq, bq, wk, bk, wv, bv, wo, bo, dense, dense_bias = weights
    x = table[tokens]
    q, k, v = (x @ w[:, 0] + b[0] for w, b in ((wq, bq), (wk, bk), (wv, bv)))
    shares = torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1)
    return (shares @ v @ wo[0] + bo).mean(0) @ dense + dense_bias


HEADS = [shape for _ in range(3) for shape in ((4, 1, 2), (1, 2))]
NETWORKS = {
    "convolutional": (convolutional, [(3, 3, 1, 2), (2,), (18, CLASSES), (CLASSES,)]),
    "attentive": (attentive, [(6, 4), *HEADS, (1, 2, 4), (4,), (4, CLASSES), (CLASSES,)]),
}


def fisher(network, weights, x, y, exact):
    """Returns means of squared gradients of `log p(y | x)`, over all `y` or for those given."""
    import torch

    totals = [np.zeros(w.shape) for w in weights]
    for sample, given in zip(x, y, strict=True):
        for label in range(CLASSES) if exact else [int(given)]:
            leaves = [torch.tensor(w, dtype=torch.float64, requires_grad=True) for w in weights]
            log_p = torch.log_softmax(network(leaves, sample), dim=-1)[label]
            share = log_p.exp().item() if exact else 1.0
            for total, g in zip(totals, torch.autograd.grad(log_p, leaves), strict=True):
                total += share * g.numpy() ** 2 / len(x)
    return totals


def main() -> None:
    import torch

    rng = np.random.default_rng(0)
    inputs = {
        "convolutional": rng.normal(size=(SAMPLES, 5, 5, 1)).astype("float32"),
        "attentive": rng.integers(0, 6, (SAMPLES, 4)).astype("int32"),
    }
    arrays = {}
    for name, (network, shapes) in NETWORKS.items():
        x, y = inputs[name], rng.integers(0, CLASSES, SAMPLES)
        weights = [rng.normal(size=shape).astype("float32") for shape in shapes]
        samples = torch.tensor(x) if x.dtype == np.int32 else torch.tensor(x, dtype=torch.float64)
        arrays |= {f"{name}/x": x, f"{name}/y": y}
        for kind in ("exact", "empirical"):
            found = fisher(network, weights, samples, y, kind == "exact")
            arrays |= {f"{name}/{kind}/{i}": f for i, f in enumerate(found)}
        arrays |= {f"{name}/weights/{i}": w for i, w in enumerate(weights)}
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
