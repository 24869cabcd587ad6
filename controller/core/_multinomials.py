# SPDX-License-Identifier: MIT
r"""Multinomial draws over laws that are used again and again, prepared once.

The n agents of a row go to their C outcomes one outcome at a time, the likeliest first: outcome i
takes a binomial share :math:`p_i / \sum_{i' \ge i} p_{i'}` of those who are left: by look-up if
they are few (`_binomial_tables`), from bins of the bell if they are many (`_bell`). Once very few
are left, each is drawn by itself from what remains of the law, by the alias method (Walker 1977,
Vose 1991): that costs two look-ups and one random word, and no branch that a processor cannot
foresee.

========  ============  ==========  ==========================================================
symbol    name          shape       meaning
========  ============  ==========  ==========================================================
          size          (R,)        outcomes of positive probability
          order         (R, C)      outcomes, the likeliest first
          share         (R, C)      probability among the outcomes not yet served
          log_rest      (R, C)      log(1 - min(share, 1 - share)), for the binomials
          number        (R, C)      table of the share for few trials, -1 without one
          tables        (T, .)      see `_binomial_tables`
          cut           (R, D, C)   alias tables of the law without its 0..D-1 likeliest outcomes:
          pair          (R, D, 2C)  below cut[c], outcome pair[2 c], else pair[2 c + 1]
========  ============  ==========  ==========================================================
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kofn.controller.core import _random as draw
from kofn.controller.core._alias import pair_up
from kofn.controller.core._bell import VARIANCE, bell
from kofn.controller.core._binomial_tables import LIMIT, look_up, tables_of
from kofn.controller.core._jit import jit, unrolled

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

#: Alias tables of a row: further down a row, its few agents are served by binomials.
_DEPTH = 4
#: Agents that are drawn one by one take about as long as one binomial.
_FEW = 8


class Rows(NamedTuple):
    """R laws over C outcomes, prepared for `add`; the module says what the arrays hold."""

    size: I64
    order: I64
    share: F64
    log_rest: F64
    number: I64
    tables: U64
    cut: F64
    pair: I64


def prepare(laws: F64) -> Rows:
    """Prepare the laws, shape (R, C), each summing to 1."""
    n_rows, n_outcomes = laws.shape
    depth = min(_DEPTH, n_outcomes)
    rows = Rows(
        size=np.ones(n_rows, dtype=np.int64),
        order=np.ascontiguousarray(np.argsort(-laws, axis=1, kind="stable")),
        share=np.ones((n_rows, n_outcomes)),
        log_rest=np.zeros((n_rows, n_outcomes)),
        number=np.zeros((n_rows, n_outcomes), dtype=np.int64),
        tables=np.zeros((1, 1), dtype=np.uint64),
        cut=np.ones((n_rows, depth, n_outcomes)),
        pair=np.zeros((n_rows, depth, 2 * n_outcomes), dtype=np.int64),
    )
    _fill(np.array(laws), rows)
    number, tables = tables_of(rows.share)
    return rows._replace(number=number, tables=tables)


@jit
def _fill(laws: F64, rows: Rows) -> None:
    n_outcomes = laws.shape[1]
    level = np.empty(n_outcomes)
    other = np.empty(n_outcomes, dtype=np.int64)
    small = np.empty(n_outcomes, dtype=np.int64)
    large = np.empty(n_outcomes, dtype=np.int64)
    for r in range(laws.shape[0]):
        order = rows.order[r]
        size = 1
        while size < n_outcomes and laws[r, order[size]] > 0.0:
            size += 1
        rows.size[r] = size
        rest = 0.0
        for i in range(size - 1, -1, -1):  # the smallest first, for accuracy
            rest += laws[r, order[i]]
            share = laws[r, order[i]] / rest if i < size - 1 else 1.0
            rows.share[r, i] = share
            rows.log_rest[r, i] = math.log1p(-min(share, 1.0 - share))
            if i >= rows.cut.shape[1]:
                continue
            columns = size - i
            for c in range(columns):
                level[c] = columns * laws[r, order[i + c]] / rest
            pair_up(level, other, columns, small, large)
            for c in range(columns):
                whole = other[c] == c
                rows.cut[r, i, c] = c + 1.0 if whole else c + level[c]
                rows.pair[r, i, 2 * c] = order[i + c]
                rows.pair[r, i, 2 * c + 1] = order[i + other[c]]


@unrolled
def add(
    key: np.uint64,
    step: int,
    purpose: int,
    counts: I64,
    n_rows: int,
    rows: Rows,
    first: int,
    out: I64,
    stride: int,
) -> None:
    """Add draws of counts[i] over law first + i to out[i stride :], for i < n_rows.

    Law i draws from the stream of purpose + 2 i. All rows of a step go in one call, because each
    call counts the references of all its arrays.
    """
    size, order, share, log_rest, number, tables, cut, pair = rows
    for row in range(n_rows):
        n = counts[row]
        state = draw.beginning(key, step, purpose + 2 * row)
        r = first + row
        at = row * stride
        last = size[r] - 1
        i = 0
        while i < last and n > 0:
            if n <= _FEW * (last - i) and i < _DEPTH:
                columns = last - i + 1
                for _ in range(n):
                    state += draw.GOLDEN
                    x = draw.unit(state) * columns
                    c = int(x)
                    out[at + pair[r, i, 2 * c + (x >= cut[r, i, c])]] += 1
                n = 0
            else:
                if n < LIMIT and number[r, i] >= 0:
                    state, taken = look_up(state, n, tables, number[r, i])
                elif n * share[r, i] * (1.0 - share[r, i]) >= VARIANCE:
                    state, taken = bell(state, n, share[r, i])
                else:
                    state, taken = draw.binomial_share(state, n, share[r, i], log_rest[r, i])
                out[at + order[r, i]] += taken
                n -= taken
                i += 1
        out[at + order[r, i]] += n
