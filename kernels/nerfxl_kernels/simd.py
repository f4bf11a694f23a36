"""What numba lacks on the CPU: short vectors, and asking memory ahead of time.

A vector is the F features of one row of a table, held in one register: loaded, combined and stored
in one instruction each. F is the length of a tuple, so the compiler knows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model
from numba.np.arrayobj import make_array

_FLAGS = ("contract", "reassoc", "nsz")  # a product and a sum may become one instruction


class Vector(types.Type):
    """F numbers of one type."""

    def __init__(self, number: Any, width: int) -> None:
        self.number, self.width = number, width
        super().__init__(name=f"Vector({number}, {width})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        number = manager.lookup(kind.number).get_value_type()
        super().__init__(manager, kind, ir.VectorType(number, kind.width))


@intrinsic
def load(_: Any, array: Any, entry: Any, like: Any) -> Any:  # noqa: ARG001
    """The vector of as many entries as `like` is long, from an entry of a contiguous array on."""
    kind = Vector(array.dtype, len(like))

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature, args, kind)
        return builder.load(place, align=_alignment(kind))

    return kind(array, types.intp, like), generate


@intrinsic
def store(_: Any, array: Any, entry: Any, vector: Any) -> Any:  # noqa: ARG001
    """Write a vector to a contiguous array, from an entry on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature, args, vector)
        builder.store(args[2], place, align=_alignment(vector))
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def prefetch(_: Any, array: Any, entry: Any) -> Any:  # noqa: ARG001
    """Ask for the cache line of an entry of a contiguous array; waits for nothing."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start = make_array(signature.args[0])(context, builder, args[0]).data
        byte, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        shape = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [byte], shape)
        to_read, keep, data = (ir.Constant(i32, number) for number in (0, 3, 1))
        place = builder.bitcast(builder.gep(start, [args[1]]), byte)
        builder.call(ask, [place, to_read, keep, data])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def _pairwise(operation: str) -> Callable[..., Any]:
    @intrinsic
    def combine(_: Any, a: Any, b: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return getattr(builder, operation)(*args, flags=_FLAGS)

        return a(a, b), generate

    return combine


add, subtract = _pairwise("fadd"), _pairwise("fsub")


@intrinsic
def scale(_: Any, vector: Any, factor: Any) -> Any:
    """A vector times a number."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        kind, index = args[0].type, ir.IntType(32)
        one = builder.insert_element(kind(ir.Undefined), args[1], index(0))
        everywhere = ir.VectorType(index, kind.count)([index(0)] * kind.count)
        spread = builder.shuffle_vector(one, kind(ir.Undefined), everywhere)
        return builder.fmul(args[0], spread, flags=_FLAGS)

    return vector(vector, factor), generate


@intrinsic
def dot(_: Any, a: Any, b: Any) -> Any:
    """The sum of the products of two vectors."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        product = builder.fmul(*args, flags=_FLAGS)
        places = [ir.IntType(32)(i) for i in range(product.type.count)]
        total = builder.extract_element(product, places[0])
        for place in places[1:]:
            part = builder.extract_element(product, place)
            total = builder.fadd(total, part, flags=_FLAGS)
        return total

    return a.number(a, b), generate


def _place(context: Any, builder: Any, signature: Any, args: Any, kind: Vector) -> Any:
    start = make_array(signature.args[0])(context, builder, args[0]).data
    vector = context.get_value_type(kind)
    return builder.bitcast(builder.gep(start, [args[1]]), vector.as_pointer())


def _alignment(kind: Vector) -> int:
    """Of one number: rows need not start where vectors like to."""
    return int(kind.number.bitwidth) // 8
