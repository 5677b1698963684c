"""Heads on what an encoder makes of images: one package, one detector for each head."""

from vad_lib.detectors.embedding.plan_arguments import (
    ClassifierArguments,
    ForestArguments,
    KnnArguments,
    LofArguments,
    MahalanobisArguments,
    SimilarityArguments,
)
from vad_lib.detectors.registry import register

_PLACE = "vad_lib.detectors.embedding"
register("clip_classifier", f"{_PLACE}.classifier:ClipClassifier", ClassifierArguments)
register("clip_isolation_forest", f"{_PLACE}.detector:ClipIsolationForest", ForestArguments)
register("clip_knn", f"{_PLACE}.detector:ClipKnn", KnnArguments)
register("clip_lof", f"{_PLACE}.detector:ClipLof", LofArguments)
register("clip_mahalanobis", f"{_PLACE}.detector:ClipMahalanobis", MahalanobisArguments)
register("clip_similarity", f"{_PLACE}.similarity:ClipSimilarity", SimilarityArguments)
