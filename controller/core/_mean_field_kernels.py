# SPDX-License-Identifier: MIT
"""The jitted inner loop of `mean_field`: backups of all points with one global state."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kofn.controller.core._jit import inline, jit

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_SLACK = 1e-12


@inline
def best_plan(plans: F64, size: int, field: F64, scores: F64) -> int:
    """Return the plan of the highest value for a field; `scores` holds the values after it."""
    scores[:size] = 0.0
    for j in range(field.size):
        share = field[j]
        if share > 0.0:
            for i in range(size):
                scores[i] += share * plans[j, i]
    best = 0
    for i in range(1, size):
        if scores[i] > scores[best]:
            best = i
    return best


@inline
def move(field: F64, kernel: F64, out: F64) -> None:
    """Move a field by a kernel, shape (S_l, S_l)."""
    out[:] = 0.0
    for j in range(field.size):
        if field[j] > 0.0:
            for l in range(field.size):
                out[l] += field[j] * kernel[j, l]


@inline
def pull_back(plan: F64, kernel: F64, weight: float, out: F64) -> None:
    """Add the weighted mean of a plan's value after a move from each local state."""
    for j in range(out.size):
        total = 0.0
        for l in range(out.size):
            total += kernel[j, l] * plan[l]
        out[j] += weight * total


@jit
def back_up_state(
    s: int,
    fields: F64,
    order: I64,
    plans: F64,
    sizes: I64,
    actions: I64,
    P_g: F64,
    r_g: F64,
    P_pi: F64,
    r_pi: F64,
    gamma: float,
    local_next: bool,
    new_plans: F64,
    new_actions: I64,
) -> int:
    """Fill the new plans of state s until no point is worth less than before; return how many.

    Shapes: fields (m, S_l), order (m,), plans (S_g, S_l, width), sizes (S_g,), actions
    (S_g, width); new_plans (S_l, m) and new_actions (m,) are filled.
    """
    n_points, n_local = fields.shape
    n_global, n_actions = r_g.shape
    scores = np.empty(plans.shape[2])
    floor = np.empty(n_points)
    held = np.empty(n_points, dtype=np.int64)
    for q in range(n_points):
        held[q] = best_plan(plans[s], sizes[s], fields[q], scores)
        floor[q] = scores[held[q]]
    done = np.zeros(n_points, dtype=np.bool_)
    after = np.empty(n_local)
    follow = np.empty(n_global, dtype=np.int64)
    worth = np.empty(n_global)
    ahead = np.empty(n_local)
    back = np.empty(n_local)
    count = 0
    for q in order:
        if done[q]:
            continue
        field = fields[q]
        move(field, P_pi[s], after)
        for t in range(n_global):
            if local_next:
                move(field, P_pi[t], after)
            follow[t] = best_plan(plans[t], sizes[t], after, scores)
            worth[t] = scores[follow[t]]
        best_action, best_value = 0, -np.inf
        for a in range(n_actions):
            value = r_g[s, a]
            for t in range(n_global):
                value += gamma * P_g[s, a, t] * worth[t]
            if value > best_value:
                best_action, best_value = a, value
        back[:] = 0.0
        ahead[:] = 0.0
        for t in range(n_global):
            p = P_g[s, best_action, t]
            if p > 0.0:
                if local_next:
                    pull_back(plans[t, :, follow[t]], P_pi[t], p, back)
                else:
                    for l in range(n_local):
                        ahead[l] += p * plans[t, l, follow[t]]
        if not local_next:
            pull_back(ahead, P_pi[s], 1.0, back)
        reached = 0.0
        for j in range(n_local):
            back[j] = r_g[s, best_action] + r_pi[s, j] + gamma * back[j]
            reached += field[j] * back[j]
        if reached < floor[q] - _SLACK * abs(floor[q]):  # the old plan is still the best one here
            back[:] = plans[s, :, held[q]]
            best_action = actions[s, held[q]]
        new_plans[:, count] = back
        new_actions[count] = best_action
        count += 1
        for other in range(n_points):
            if not done[other]:
                value = 0.0
                for j in range(n_local):
                    value += back[j] * fields[other, j]
                done[other] = value >= floor[other] - _SLACK * abs(floor[other])
        done[q] = True
    return count
