"""Features on disk: a retrain extracts what is new, gives the same bits, and never takes what is stale or damaged."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.detectors.tile_images import as_dataset, write_tiles
from vad_lib.detectors import feature_cache
from vad_lib.detectors.fastflow.detector import FastFlow
from vad_lib.detectors.feature_cache import FeatureCache
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.patchcore.detector import PatchCore
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import InputError
from vad_lib.plan.arguments import TrainArguments
from vad_lib.preprocessing import Preprocessing
from vad_lib.training import augmentation_of

CPU = torch.device("cpu")
SHA = "ab" * 32


@pytest.fixture
def rows(tmp_path: Path) -> pd.DataFrame:
    return write_tiles(tmp_path / "images", 8)


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache", 2**30)


def begun(folder: Path, limit: int = 2**30, **facts: object) -> FeatureCache:
    cache = FeatureCache(folder, limit)
    cache.begin(facts, CPU)
    return cache


def fit(weights: BackboneWeights, images: ImageDataset, cache: FeatureCache | None, **arguments: object) -> PatchCore:
    detector = PatchCore(weights, coreset_sampling_ratio=0.2, feature_cache=cache, **arguments)  # type: ignore[arg-type]
    return detector.fit(images)


def from_cache_and_extracted(detector: PatchCore | FastFlow) -> tuple[float, float]:
    numbers = detector.report.numbers
    return numbers["features_from_cache"], numbers["features_extracted"]


def rows_of(detector: PatchCore) -> torch.Tensor:
    assert detector.bank_ is not None
    return detector.bank_.rows


@pytest.mark.parametrize("method", ["exact", "streaming"])
def test_a_retrain_extracts_what_is_new_and_gives_the_bits_of_a_fit_without_cache(
    rows: pd.DataFrame, real_resnet: BackboneWeights, cache: FeatureCache, method: str
) -> None:
    first = fit(real_resnet, as_dataset(rows[:6]), cache, memory_bank=method)
    assert from_cache_and_extracted(first) == (0, 6)
    again = fit(real_resnet, as_dataset(rows), cache, memory_bank=method)
    assert from_cache_and_extracted(again) == (6, 2)
    plain = fit(real_resnet, as_dataset(rows), None, memory_bank=method)
    assert "features_from_cache" not in plain.report.numbers
    assert torch.equal(rows_of(again), rows_of(plain))


def test_known_images_are_not_decoded_and_a_renamed_one_is_known(
    rows: pd.DataFrame, real_resnet: BackboneWeights, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(real_resnet, as_dataset(rows), cache)
    Path(rows["file"][0]).rename(Path(rows["file"][0]).with_name("renamed.png"))
    moved = rows.assign(file=rows["file"].str.replace("good_000", "renamed"))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("vad_lib.detectors.images.decode_bytes", refuse)
    assert from_cache_and_extracted(fit(real_resnet, as_dataset(moved), cache)) == (8, 0)


def test_other_content_size_layers_or_weights_are_extracted_anew(
    rows: pd.DataFrame, real_resnet: BackboneWeights, cache: FeatureCache
) -> None:
    import dataclasses

    fit(real_resnet, as_dataset(rows), cache)
    Path(rows["file"][0]).write_bytes(Path(rows["file"][1]).read_bytes())
    assert from_cache_and_extracted(fit(real_resnet, as_dataset(rows), cache)) == (8, 0)  # the content of another one
    assert from_cache_and_extracted(fit(real_resnet, as_dataset(rows, 48), cache)) == (0, 8)
    assert from_cache_and_extracted(fit(real_resnet, as_dataset(rows), cache, layers=("layer2",))) == (0, 8)
    other = dataclasses.replace(real_resnet, sha256="0" * 64)
    assert from_cache_and_extracted(fit(other, as_dataset(rows), cache)) == (0, 8)


def test_a_damaged_entry_is_extracted_again_and_replaced(
    rows: pd.DataFrame, real_resnet: BackboneWeights, cache: FeatureCache
) -> None:
    first = fit(real_resnet, as_dataset(rows), cache)
    entries = sorted(cache.folder.rglob("*.safetensors"))
    assert len(entries) == 8
    changed = bytearray(entries[0].read_bytes())
    changed[-100] ^= 1
    entries[0].write_bytes(changed)
    entries[1].write_bytes(entries[1].read_bytes()[:100])
    entries[2].write_bytes(b"")
    again = fit(real_resnet, as_dataset(rows), cache)
    assert from_cache_and_extracted(again) == (5, 3)
    assert torch.equal(rows_of(again), rows_of(first))
    assert from_cache_and_extracted(fit(real_resnet, as_dataset(rows), cache)) == (8, 0)


def test_augmented_images_and_random_weights_are_never_kept(
    rows: pd.DataFrame, real_resnet: BackboneWeights, random_resnet: BackboneWeights, cache: FeatureCache
) -> None:
    augmentation = augmentation_of(TrainArguments(augmentation_list=("brightness",)), grey=True)
    fit(real_resnet, ImageDataset.from_rows(rows, Preprocessing((64, 64)), augmentation), cache)
    fit(random_resnet, as_dataset(rows), cache)
    assert not cache.folder.exists()


def test_fastflow_takes_features_from_the_cache_and_learns_the_same(
    tmp_path: Path, real_resnet: BackboneWeights, cache: FeatureCache
) -> None:
    rows = write_tiles(tmp_path / "large", 4, side=256)

    def flow(cache: FeatureCache | None) -> FastFlow:
        detector = FastFlow(real_resnet, flow_steps=1, max_epochs=1, monitor_metric="loss", feature_cache=cache)
        return detector.fit(as_dataset(rows, 256))

    assert from_cache_and_extracted(flow(cache)) == (0, 4)
    again = flow(cache)
    assert from_cache_and_extracted(again) == (4, 0)
    image = as_dataset(rows, 256)[0][None]
    assert again.score(image).scores == flow(None).score(image).scores


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_what_is_read_is_what_was_written(shapes: list[tuple[int, int]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        cache = begun(Path(folder))
        features = [torch.randn(shape) for shape in shapes]
        assert cache.read(SHA) is None
        cache.write(SHA, features)
        found = cache.read(SHA)
        assert found is not None
        assert all(torch.equal(one, two) for one, two in zip(found, features, strict=True))
        assert begun(Path(folder), other=1).read(SHA) is None
        assert (cache.hits, cache.misses) == (1, 1)


def test_above_the_limit_the_longest_unused_go_but_never_what_this_training_uses(tmp_path: Path) -> None:
    one = [torch.zeros(1000)]
    cache = begun(tmp_path)
    names = [f"{number:064x}" for number in range(6)]
    for age, name in enumerate(names[:4]):
        cache.write(name, one)
        file = next(tmp_path.rglob(f"{name}.safetensors"))
        os.utime(file, (1000 + age, 1000 + age))
        size = file.stat().st_size
    cache = begun(tmp_path, limit=4 * size)
    assert cache.read(names[0]) is not None  # the oldest, but used now
    cache.write(names[4], one)
    assert {file.stem for file in tmp_path.rglob("*.safetensors")} == {names[place] for place in (0, 2, 3, 4)}
    cache = begun(tmp_path, limit=2 * size)
    for name in names[:3]:
        cache.write(name, one)
    assert {file.stem for file in tmp_path.rglob("*.safetensors")} == {names[0], names[1]}
    assert cache.left_out == 1


def test_what_a_training_is_going_to_read_makes_no_room_for_what_it_extracts(tmp_path: Path) -> None:
    one = [torch.zeros(1000)]
    names = [f"{number:064x}" for number in range(6)]
    cache = begun(tmp_path)
    for age, name in enumerate(names[:4]):
        cache.write(name, one)
        file = next(tmp_path.rglob(f"{name}.safetensors"))
        os.utime(file, (1000 + age, 1000 + age))
    cache = FeatureCache(tmp_path, 4 * file.stat().st_size)
    cache.begin({}, CPU, [*names[1:4], *names[4:]])
    cache.write(names[4], one)  # in the place of the first, which this training does not want
    cache.write(names[5], one)
    assert all(cache.read(name) is not None for name in names[1:5])
    assert (cache.hits, cache.left_out) == (4, 1)


@pytest.mark.parametrize("moved", ["FEATURES_VERSION", "pillow"])
def test_features_of_other_software_are_extracted_anew(
    moved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path).write(SHA, [torch.zeros(10)])
    assert begun(tmp_path).read(SHA) is not None
    if moved == "FEATURES_VERSION":
        monkeypatch.setattr(feature_cache, moved, feature_cache.FEATURES_VERSION + 1)
    else:
        monkeypatch.setattr(feature_cache, "version", lambda name: "0" if name == moved else version(name))
    assert begun(tmp_path).read(SHA) is None


def test_a_disk_that_refuses_does_not_stop_a_training(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache = begun(tmp_path / "cache")
    cache.write(SHA, [torch.zeros(3)])
    assert cache.read(SHA) is None


def test_half_written_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    old, new = tmp_path / ".a.partial", tmp_path / ".b.partial"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    begun(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


def test_the_limit_is_an_environment_variable_and_zero_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAD_FEATURE_CACHE_GIB", raising=False)
    default = FeatureCache.from_environment(tmp_path)
    assert default is not None
    assert default.limit_bytes == 10 * 2**30
    monkeypatch.setenv("VAD_FEATURE_CACHE_GIB", "0")
    assert FeatureCache.from_environment(tmp_path) is None
    for wrong in ("much", "-1", "nan"):
        monkeypatch.setenv("VAD_FEATURE_CACHE_GIB", wrong)
        with pytest.raises(InputError, match="VAD_FEATURE_CACHE_GIB is"):
            FeatureCache.from_environment(tmp_path)


def test_the_plan_switches_the_cache_off(tmp_path: Path, real_resnet: BackboneWeights, shared_data: Path) -> None:
    from vad_lib.training import create_detector

    plan = TrainArguments(model_name="patchcore", model_parameters={"patchcore_backbone": "resnet18"})  # type: ignore[arg-type]
    for switch in (True, False):
        train = plan.model_copy(update={"feature_cache": switch})
        detector = create_detector(train, weights_store=shared_data / "weights", cache_folder=tmp_path)
        assert isinstance(detector, PatchCore)
        assert (detector.feature_cache is not None) is switch
