"""The arithmetic that a network is computed in: float32, or products of bfloat16 numbers.

bfloat16 has the range of float32 and 8 bits of its 24. GPUs and processors with units for it (AMX, AVX-512 BF16)
multiply such numbers several times as fast, and add the products up in float32. Other processors compute the same from
float32 numbers that are rounded before and after each product. That is slower than float32; it is there so that such a
model can be tried and served everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from vad_lib.encoders.protocol import Embedding
from vad_lib.encoders.weight_file import Precision

PRODUCTS: frozenset[Any] = frozenset(
    {
        torch.conv2d,
        functional.linear,
        torch.matmul,
        torch.Tensor.matmul,
        torch.Tensor.__matmul__,
        torch.bmm,
        functional.scaled_dot_product_attention,
        functional.multi_head_attention_forward,
    }
)
"""Functions whose arguments and results are rounded on a processor without units for bfloat16."""
Method = TypeVar("Method", bound=Callable[..., Any])


def arithmetic(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which torch computes in a precision on a device."""
    if precision == "float32":
        return nullcontext()
    if device.type != "cpu" or multiplies_bfloat16():
        return torch.autocast(device.type, torch.bfloat16)
    return _Rounded()


@functools.cache
def multiplies_bfloat16() -> bool:
    """Tell whether this processor has units for bfloat16; without them torch takes 5 to 30 s for one image."""
    units = torch.cpu.get_capabilities()
    return bool(units.get("amx_bf16") or units.get("avx512_bf16"))


def in_own_precision(method: Method) -> Method:
    """Have a network's method compute in ``self.weights.precision``; what it returns is float32.

    Args:
        method: its first argument is a tensor, or a list of tensors.
    """

    @functools.wraps(method)
    def computed(self: Any, values: Any, *others: Any) -> Any:
        precision: Precision = self.weights.precision
        if precision == "float32":
            return method(self, values, *others)
        device = values.device if torch.is_tensor(values) else values[0].device
        with arithmetic(precision, device):
            return _as_float32(method(self, values, *others))

    return computed  # type: ignore[return-value]


class _Rounded(TorchFunctionMode):
    """Rounds what goes into and comes out of products to bfloat16; the products themselves are float32."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func not in PRODUCTS:
            return func(*args, **given)
        args, given = tree_map_only(torch.Tensor, _round, (args, given))
        return tree_map_only(torch.Tensor, _round, func(*args, **given))


def _round(values: torch.Tensor) -> torch.Tensor:
    return values.bfloat16().float() if values.dtype == torch.float32 else values


def _as_float32(found: Any) -> Any:
    """Return tensors, and those in tuples, lists and embeddings, as float32."""
    if torch.is_tensor(found):
        return found.float()
    if isinstance(found, Embedding):
        return Embedding(found.vectors.float(), _as_float32(found.patches))
    if isinstance(found, list | tuple):
        parts = [_as_float32(part) for part in found]
        return type(found)(*parts) if hasattr(found, "_fields") else type(found)(parts)
    return found
