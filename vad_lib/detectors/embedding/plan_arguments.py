"""The arguments of the embedding detectors in a plan: which encoder, which layers, image or patches, and the head's."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from vad_lib.argument_fields import Words, argument
from vad_lib.detectors.encoder_arguments import encoder_argument, layers_argument
from vad_lib.detectors.registry import DetectorArguments


class EmbeddingArguments(DetectorArguments):
    """What the arguments of all embedding detectors have in common."""

    detector: ClassVar[str]

    def value(self, word: str) -> Any:
        """Return the argument ``<detector>_<word>``."""
        return getattr(self, f"{self.detector}_{word}")

    def backbone(self) -> str:
        """Return the name or path of the encoder."""
        return str(self.value("encoder"))

    def of_head(self) -> dict[str, Any]:
        """Return the arguments that are the head's own, without the detector's name before them."""
        common = ("encoder", "layers", "patch_level")
        words = [name.removeprefix(f"{self.detector}_") for name in type(self).model_fields]
        return {word: self.value(word) for word in words if word not in common}


def level_argument(default: bool) -> Any:
    """Declare the argument that chooses between the image and its patches."""
    return argument(
        default,
        "Judge the patches of an image and draw maps, instead of judging one vector of the whole image without maps.",
        kind="own",
    )


class SimilarityArguments(EmbeddingArguments):
    """What a plan says about ``clip_similarity``."""

    detector: ClassVar[str] = "clip_similarity"
    clip_similarity_encoder: str = encoder_argument()
    clip_similarity_layers: Words = layers_argument()
    clip_similarity_patch_level: bool = level_argument(False)
    clip_similarity_second_encoder: str = argument(
        "resnet50",
        "Encoder whose features are joined with those of the first, each with half of the weight; empty joins none.",
        kind="own",
        allowed="the name of a timm model, the path of a file or folder, or empty",
    )
    clip_similarity_references: Words = argument(
        (),
        "Images that others are compared with: file names or ends of paths of training images, or absolute paths of "
        "other files. Empty takes all training images.",
        kind="own",
        computed="all training images",
        allowed="a list of files",
    )


class ClassifierArguments(EmbeddingArguments):
    """What a plan says about ``clip_classifier``."""

    detector: ClassVar[str] = "clip_classifier"
    clip_classifier_encoder: str = encoder_argument()
    clip_classifier_layers: Words = layers_argument()
    clip_classifier_patch_level: bool = level_argument(False)
    clip_classifier_anomalies: Literal["both", "colour_and_blur", "drawn"] = argument(
        "both",
        "What the classifier takes for anomalous: changed colours and blur, drawn defects, or half of each.",
        kind="own",
    )
    clip_classifier_anomalies_per_image: int = argument(
        4, "Anomalous versions that are made of each training image.", kind="own", ge=1, le=64
    )


class ForestArguments(EmbeddingArguments):
    """What a plan says about ``clip_isolation_forest``."""

    detector: ClassVar[str] = "clip_isolation_forest"
    clip_isolation_forest_encoder: str = encoder_argument()
    clip_isolation_forest_layers: Words = layers_argument()
    clip_isolation_forest_patch_level: bool = level_argument(False)
    clip_isolation_forest_components: int = argument(
        0,
        "Principal components that vectors are reduced to and whitened before the forest; 0 takes them as they are.",
        kind="own",
        ge=0,
    )


class LofArguments(EmbeddingArguments):
    """What a plan says about ``clip_lof``."""

    detector: ClassVar[str] = "clip_lof"
    clip_lof_encoder: str = encoder_argument()
    clip_lof_layers: Words = layers_argument()
    clip_lof_patch_level: bool = level_argument(False)
    clip_lof_neighbours: int = argument(
        20, "Neighbours that the local density is estimated from; fewer where there are fewer.", kind="own", ge=1
    )


class KnnArguments(EmbeddingArguments):
    """What a plan says about ``clip_knn``."""

    detector: ClassVar[str] = "clip_knn"
    clip_knn_encoder: str = encoder_argument()
    clip_knn_layers: Words = layers_argument()
    clip_knn_patch_level: bool = level_argument(True)
    clip_knn_neighbours: int = argument(1, "Nearest normal vectors whose mean distance is the score.", kind="own", ge=1)


class MahalanobisArguments(EmbeddingArguments):
    """What a plan says about ``clip_mahalanobis``."""

    detector: ClassVar[str] = "clip_mahalanobis"
    clip_mahalanobis_encoder: str = encoder_argument()
    clip_mahalanobis_layers: Words = layers_argument()
    clip_mahalanobis_patch_level: bool = level_argument(True)
