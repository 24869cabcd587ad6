# SPDX-License-Identifier: MIT
r"""One vectorised loop that numba does not find by itself: a sum of rows, held in registers.

.. math:: out_x = \sum_{q=0}^{r} coef_q\, row_q(x), \qquad x = 0..n-1

numba's compiler vectorises over x inside q, so each partial sum travels through memory, and rows of
a few dozen numbers drown in the overhead of the loop. Here q runs inside x, eight numbers to a
vector and up to four vectors at once. The last vector of a row is summed first and written last: it
overlaps the one before it, so no number is left over for a scalar loop. The rows may include
`out` itself.

Written as LLVM instructions, for any machine: LLVM splits the vectors where they are too wide, and
fuses multiplication and addition where the processor can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from llvmlite import ir
from numba.core import cgutils as untyped_cgutils
from numba.core import types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

    Code = Callable[[Any, Any, Any, tuple[Any, ...]], Any]

cgutils: Any = untyped_cgutils

_DOUBLE = ir.DoubleType()
_INT32 = ir.IntType(32)


class _Rows:
    """Emits the loops of `sum_rows` for vectors of one width."""

    def __init__(self, builder: Any, width: int, pointers: tuple[Any, Any, Any], args: Any) -> None:
        self.builder, self.width = builder, width
        self.values, self.starts, self.coef = pointers
        _, self.at, self.n, _, self.first, self.r, self.shift, self.lanes, _, self.coef_at = args
        self.vector = _DOUBLE if width == 1 else ir.VectorType(_DOUBLE, width)

    def const(self, number: int) -> Any:
        return ir.Constant(self.at.type, number)

    def pointer(self, position: Any) -> Any:
        place = self.builder.gep(self.values, [position])
        return self.builder.bitcast(place, self.vector.as_pointer())

    def spread(self, number: Any) -> Any:
        """Return a vector that holds one number everywhere."""
        if self.width == 1:
            return number
        undefined = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(undefined, number, ir.Constant(_INT32, 0))
        mask = ir.Constant(ir.VectorType(_INT32, self.width), [0] * self.width)
        return self.builder.shuffle_vector(one, undefined, mask)

    def sums(self, x: Any, vectors: int) -> list[Any]:
        """Sum the rows from position x on; return the vectors' places on the stack."""
        b = self.builder
        name = "f64" if self.width == 1 else f"v{self.width}f64"
        multiply_add = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(self.vector, [self.vector] * 3), f"llvm.fmuladd.{name}"
        )
        sums = [cgutils.alloca_once(b, self.vector) for _ in range(vectors)]
        for total in sums:
            b.store(self.spread(ir.Constant(_DOUBLE, 0.0)), total)
        with cgutils.for_range(b, b.add(self.r, self.const(1))) as loop:
            q = loop.index
            row = b.mul(b.load(b.gep(self.starts, [b.add(self.first, q)])), self.lanes)
            place = b.add(b.add(row, b.mul(b.sub(self.r, q), self.shift)), x)
            factor = self.spread(b.load(b.gep(self.coef, [b.add(self.coef_at, q)])))
            for index, total in enumerate(sums):
                load = b.load(self.pointer(b.add(place, self.const(index * self.width))))
                load.align = 8
                b.store(b.call(multiply_add, [factor, load, b.load(total)]), total)
        return sums

    def write(self, sums: list[Any], x: Any) -> None:
        b = self.builder
        for index, total in enumerate(sums):
            place = b.add(b.add(self.at, x), self.const(index * self.width))
            b.store(b.load(total), self.pointer(place)).align = 8

    def emit(self, bundles: tuple[int, ...]) -> None:
        """Emit everything, for rows of at least one vector."""
        b = self.builder
        last = b.sub(self.n, self.const(self.width))
        overlapping = self.sums(last, 1)
        x = cgutils.alloca_once(b, self.at.type)
        b.store(self.const(0), x)
        for vectors in bundles:
            size = vectors * self.width
            # A single vector is needed only where it begins before the last one.
            most = b.sub(last, self.const(1)) if vectors == 1 else b.sub(self.n, self.const(size))
            condition, body, end = (b.append_basic_block(name) for name in ("if", "do", "end"))
            b.branch(condition)
            b.position_at_end(condition)
            b.cbranch(b.icmp_signed("<=", b.load(x), most), body, end)
            b.position_at_end(body)
            self.write(self.sums(b.load(x), vectors), b.load(x))
            b.store(b.add(b.load(x), self.const(size)), x)
            b.branch(condition)
            b.position_at_end(end)
        self.write(overlapping, last)


def _sum_rows(
    _typing: Any,
    values: Any,
    _at: Any,
    _n: Any,
    starts: Any,
    _first: Any,
    _r: Any,
    _shift: Any,
    _lanes: Any,
    coef: Any,
    _coef_at: Any,
) -> tuple[Any, Code]:
    """Return the signature for given types, and what emits the code."""
    size = types.intp
    signature = types.void(values, size, size, starts, size, size, size, size, coef, size)

    def code(context: Any, builder: Any, called: Any, args: tuple[Any, ...]) -> Any:
        def data(k: int) -> Any:
            return context.make_array(called.args[k])(context, builder, value=args[k]).data

        pointers = data(0), data(3), data(8)

        def at_least(width: int) -> Any:
            return builder.icmp_signed(">=", args[2], ir.Constant(args[2].type, width))

        with builder.if_else(at_least(8)) as (eight, fewer):
            with eight:
                _Rows(builder, 8, pointers, args).emit((4, 2, 1))
            with fewer, builder.if_else(at_least(4)) as (four, few):
                with four:
                    _Rows(builder, 4, pointers, args).emit((1,))
                with few, builder.if_else(at_least(2)) as (two, single):
                    with two:
                        _Rows(builder, 2, pointers, args).emit((1,))
                    with single:
                        _Rows(builder, 1, pointers, args).emit(())
        return context.get_dummy_value()

    return signature, code


#: sum_rows(values, at, n, starts, first, r, shift, lanes, coef, coef_at), inside kernels only:
#: write values[at + x] = sum_q coef[coef_at + q] values[row_q + x] for x < n, q = 0..r, with row_q
#: beginning at starts[first + q] * lanes + (r - q) * shift.
#: values, coef and starts are contiguous, float64 and int64; the others are integers, n at least 1.
#: No index is checked.
sum_rows = cast("Callable[..., None]", intrinsic(_sum_rows))
