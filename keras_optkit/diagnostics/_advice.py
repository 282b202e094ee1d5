"""What to do about what a diagnosis finds, by its kind."""

ADVICE = {
    "vanishing": "try residual connections, normalization or He initialization",
    "exploding": "try clipping, warmup, normalization or a lower learning rate",
    "non-finite": "look for NaN in the data and for log or division by 0 in the loss, try clipping "
    "or a lower learning rate",
    "dead": "try a lower learning rate, He initialization or a leaky activation",
    "saturated": "try normalization, smaller initial weights, a lower learning rate or ReLU",
}
