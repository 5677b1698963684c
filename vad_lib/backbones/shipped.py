"""The backbone that ships with the package: the end of the search order, so that nothing is ever without weights.

None ships yet. When one does, ``shipped_backbones`` names it, with its file beside this module, and
``register_architectures`` makes timm know its architecture where timm does not have it by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vad_lib.backbones.weights import BackboneWeights


def shipped_backbones() -> dict[str, BackboneWeights]:
    """Return the shipped backbones by name; the first one stands in for a backbone that cannot be had."""
    return {}


def register_architectures() -> None:
    """Register the architectures of the shipped backbones with timm; called before any network is built."""
