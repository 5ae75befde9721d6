"""Layers once more, in NumPy, float64 and loops, for tests to compare with."""

import math

import numpy as np


def dense(x, params):
    return x.astype(np.float64) @ params["kernel"] + params.get("bias", 0)


def group_norm(frame, groups, scale, bias):
    """Of one picture [h, w, c]."""
    out = np.zeros(frame.shape)
    size = frame.shape[-1] // groups
    for first in range(0, frame.shape[-1], size):
        group = frame[..., first : first + size].astype(np.float64)
        out[..., first : first + size] = (group - group.mean()) / np.sqrt(group.var() + 1e-5)
    return out * scale + bias


def layer_norm(x, scale, bias, epsilon=1e-5):
    """Of vectors [n, c]."""
    rows = [(row - row.mean()) / np.sqrt(row.var() + epsilon) for row in x.astype(np.float64)]
    return np.stack(rows) * scale + bias


def attention(q, k, v, head_dim, seen):
    """q: [n, c]; k, v: [m, c]; seen: bool [n, m]."""
    out = np.zeros(q.shape)
    for first in range(0, q.shape[-1], head_dim):
        head = slice(first, first + head_dim)
        for i in range(len(q)):
            scores = np.array([q[i, head] @ key[head] for key in k]) / np.sqrt(head_dim)
            weights = np.where(seen[i], np.exp(scores), 0)
            for weight, value in zip(weights / weights.sum(), v, strict=True):
                out[i, head] += weight * value[head]
    return out


def gelu(x):
    return np.vectorize(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2)(x)


def quick_gelu(x):
    return x / (1 + np.exp(-1.702 * x))
