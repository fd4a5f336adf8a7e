"""The softmax loss and its gradients written from the definition, in float64, with dense arrays."""

import numpy as np

from rgals.numerics.sparse import InteractionRows


def dense_weights(rows: InteractionRows) -> np.ndarray:
    dense = np.zeros((rows.n_rows, rows.n_columns))
    for row in range(rows.n_rows):
        dense[row, rows.columns_of(row)] = rows.weights_of(row)
    return dense


def unit(values: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(norms > 0, norms, 1)


def user_losses(users: np.ndarray, items: np.ndarray, rows: InteractionRows, temperature: float | None) -> np.ndarray:
    """Give each user's loss under dot (temperature None) or cosine scores."""
    p, q = users.astype(np.float64), items.astype(np.float64)
    if temperature is not None:
        p, q = unit(p) / temperature, unit(q)
    scores, weights = p @ q.T, dense_weights(rows)
    maximum = scores.max(axis=1)
    log_partition = maximum + np.log(np.exp(scores - maximum[:, None]).sum(axis=1))
    return weights.sum(axis=1) * log_partition - (weights * scores).sum(axis=1)


def numeric_gradient(function, values: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Differentiate a number by an array, by central differences."""
    out = np.zeros(values.shape)
    for index in np.ndindex(values.shape):
        ends = []
        for sign in (1, -1):
            moved = values.astype(np.float64)
            moved[index] += sign * step
            ends.append(function(moved))
        out[index] = (ends[0] - ends[1]) / (2 * step)
    return out


def gradients(users: np.ndarray, items: np.ndarray, rows: InteractionRows) -> tuple[np.ndarray, np.ndarray]:
    """Give the gradients under dot scores by users and by items."""
    p, q, weights = users.astype(np.float64), items.astype(np.float64), dense_weights(rows)
    scores = p @ q.T
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    residual = weights.sum(axis=1, keepdims=True) * odds / odds.sum(axis=1, keepdims=True) - weights
    return residual @ q, residual.T @ p
