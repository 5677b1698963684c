"""A folder that goes to another machine: it decides as the model does, with nothing of ours, or is not written."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.export.exported_models import bottles, fitted_model, score_alone
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import InputError, UnreadableImageError
from vad_lib.export import ExportRefused, export_model
from vad_lib.export import score as script
from vad_lib.export.folder import Format
from vad_lib.export.parity import compare
from vad_lib.images.decoding import decode_image
from vad_lib.models import InspectionModel
from vad_lib.preprocessing import Preprocessing
from vad_lib.thresholds import Calibration


@pytest.fixture(scope="module")
def made(patchcore: InspectionModel, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    export_model(patchcore, bottles(shared_data)[1][:1], "onnx", folder := tmp_path_factory.mktemp("made") / "out")
    return folder


@pytest.fixture
def exported(made: Path, tmp_path: Path) -> Path:
    """An export of a test's own."""
    return shutil.copytree(made, tmp_path / "out")


QUICK = {("patchcore", "onnx")}


@pytest.mark.parametrize(
    ("kind", "format"),
    [
        pytest.param(kind, format, marks=() if (kind, format) in QUICK else pytest.mark.slow)
        for kind in ("patchcore", "fastflow")
        for format in get_args(Format)
    ],
)
@pytest.mark.spec("E1.01")
def test_the_folder_alone_gives_our_scores_and_labels_one_by_one_and_thirty_at_once(
    kind: str, format: Format, request: pytest.FixtureRequest, shared_data: Path, tmp_path: Path
) -> None:
    model: InspectionModel = request.getfixturevalue(kind)
    test = bottles(shared_data)[1]
    files = test[:: len(test) // 33][:33]
    parity = export_model(model, files[:6], format, tmp_path / "out", model_version="vad-bottles/3")
    assert parity.images == 6
    ours = list(model.predict_files(files))
    assert {result.predicted for result in ours} == {"OK", "NG"}
    for batch in ("1", "30"):
        found = score_alone(tmp_path / "out", files, tmp_path, "--batch", batch)
        assert [each["label"] for each in found] == [result.predicted for result in ours]
        np.testing.assert_allclose(
            [each["raw_score"] for each in found], [result.raw_score for result in ours], rtol=1e-4
        )
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["flipped"] == []
    described = json.loads((tmp_path / "out" / "detector.json").read_text())
    assert described["export"]["model_version"] == "vad-bottles/3"
    assert described["export"]["classes"]["OK"] == "good"


def test_images_of_any_shape_are_scored_where_the_shorter_side_is_given(
    real_resnet: BackboneWeights, shared_data: Path, tmp_path: Path
) -> None:
    model = fitted_model("patchcore", real_resnet, shared_data, 64)
    source = Image.open(bottles(shared_data)[1][3])
    files = []
    for number, size in enumerate([(320, 320), (200, 320), (320, 150), (64, 64)]):
        source.crop((0, 0, *size)).save(file := tmp_path / f"{number}.png")
        files.append(file)
    parity = export_model(model, files, "onnx", tmp_path / "out")
    assert parity.passed
    found = score_alone(tmp_path / "out", files, tmp_path, "--batch", "4", "--maps", str(tmp_path / "maps"))
    for number, (file, each, ours) in enumerate(
        zip(files, found, model.predict_files(files, with_maps=True), strict=True)
    ):
        assert ours.map is not None
        assert each["raw_score"] == pytest.approx(ours.raw_score, rel=1e-4)
        written = np.load(tmp_path / "maps" / f"{number:06d}_{file.name}.npy")
        np.testing.assert_allclose(written, ours.map, rtol=1e-3, atol=1e-4)


def test_an_image_that_cannot_be_read_has_its_reason_and_takes_nothing_from_the_others(
    exported: Path, shared_data: Path, tmp_path: Path
) -> None:
    good = bottles(shared_data)[1][0]
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    found = score_alone(exported, [good, tmp_path / "broken.png", tmp_path / "absent.png"], tmp_path)
    assert [each["error"] is None for each in found] == [True, False, False]
    assert found[0]["label"] in ("OK", "NG")


def test_an_image_that_cannot_be_scored_has_its_reason_and_takes_nothing_from_its_batch(
    exported: Path, shared_data: Path
) -> None:
    files = bottles(shared_data)[1][:3]
    model = script.Model(exported)
    honest, poison = model.run, script.prepare(script.decode(files[1]), model.image_size)

    def run(images: np.ndarray) -> Any:
        if any(np.array_equal(image, poison) for image in images):
            raise MemoryError("no room")
        return honest(images)

    model.run = run
    found = list(model.files(files, batch=3))
    assert [each["file"] for each in found] == [str(file) for file in files]
    assert [each["error"] for each in found] == [None, "cannot be scored: no room", None]


def test_results_that_were_written_into_an_export_are_not_lost_to_the_next(
    patchcore: InspectionModel, shared_data: Path, exported: Path
) -> None:
    files = bottles(shared_data)[1][:1]
    (exported / "__pycache__").mkdir()
    export_model(patchcore, files, "onnx", exported)
    (exported / "results.csv").write_text("of a shift")
    with pytest.raises(InputError, match=r"results\.csv.*would be lost"):
        export_model(patchcore, files, "onnx", exported)
    assert (exported / "results.csv").read_text() == "of a shift"


@pytest.mark.spec("E1.02")
def test_an_export_that_flips_a_label_is_refused_and_the_earlier_one_stays(
    patchcore: InspectionModel, shared_data: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = bottles(shared_data)[1][:4]
    before = (exported / "detector.json").read_text()
    from vad_lib.export import folder

    honest = folder.run_script

    def lying(*arguments: Any) -> list[dict[str, Any]]:
        results = honest(*arguments)
        results[2]["raw_score"] = 1000.0 if results[2]["label"] == "OK" else -1000.0
        return results

    monkeypatch.setattr(folder, "run_script", lying)
    with pytest.raises(ExportRefused, match="1 label flipped") as refused:
        export_model(patchcore, files, "onnx", exported)
    assert refused.value.parity.flipped == (str(files[2]),)
    assert (exported / "detector.json").read_text() == before
    assert [entry.name for entry in exported.parent.iterdir()] == ["out"]


def test_a_folder_that_is_no_export_is_not_replaced(
    patchcore: InspectionModel, shared_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("of years")
    with pytest.raises(InputError, match="no earlier export"):
        export_model(patchcore, bottles(shared_data)[1][:1], "onnx", tmp_path / "mine")
    with pytest.raises(InputError, match="at least one"):
        export_model(patchcore, [], "onnx", tmp_path / "new")


def test_a_damaged_file_of_the_folder_is_refused_by_its_script(exported: Path) -> None:
    with (exported / "model.onnx").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x01")
    with pytest.raises(ValueError, match="damaged"):
        script.Model(exported)


def test_the_script_prepares_values_of_12_bits_as_we_do(tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(0, 5000, (40, 60), dtype=np.uint16)
    file = tmp_path / "deep.png"
    Image.fromarray(values).save(file)
    assert np.array_equal(script.decode(file), decode_image(file).values)
    ours = Preprocessing((16, 24), grey_bits=12).prepare(decode_image(file).values).numpy()
    theirs = script.prepare(script.decode(file), [16, 24], 12)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-6)
    assert theirs.mean() > 0.4


@pytest.mark.parametrize("size", [(64, 48), (100, 77), (256, 256), 50, 130])
@pytest.mark.parametrize("shape", [(90, 60), (60, 90, 3), (77, 77, 3)])
@pytest.mark.spec("E1.03")
def test_the_script_prepares_images_as_we_do(size: int | tuple[int, int], shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    ours = Preprocessing(size).prepare(pixels).numpy()
    theirs = script.prepare(pixels, size if isinstance(size, int) else list(size))
    assert theirs.shape == ours.shape
    assert theirs.dtype == np.float32
    np.testing.assert_allclose(theirs, ours, atol=1e-5)  # of noise; a grey step is 4e-3


@given(
    raw=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=5),
    threshold=st.floats(-100, 100),
    scale=st.floats(1e-3, 1e3),
)
@pytest.mark.spec("E1.03")
def test_the_script_calibrates_to_the_same_bits(raw: list[float], threshold: float, scale: float) -> None:
    ours = Calibration(threshold=threshold, scale=scale)([*raw, threshold])
    values = np.array([*raw, threshold], np.float32)
    theirs = script.calibrate(values, threshold, scale)
    assert theirs[:-1].tolist() == ours[:-1].tolist()


KINDS = {
    "grey": lambda pixels: Image.fromarray(pixels[:, :, 0]),
    "colour": Image.fromarray,
    "grey16": lambda pixels: Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 200),
    "palette": lambda pixels: Image.fromarray(pixels).quantize(16),
    "one bit": lambda pixels: Image.fromarray(pixels[:, :, 0]).convert("1"),
    "transparent": lambda pixels: Image.fromarray(np.dstack([pixels, pixels[:, :, 1]])),
    "opaque": lambda pixels: Image.fromarray(pixels).convert("RGBA"),
    "grey with alpha": lambda pixels: Image.fromarray(pixels[:, :, :2].copy(), "LA"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.spec("E1.03")
def test_the_script_decodes_every_kind_of_png_as_we_do(kind: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (21, 34, 3), dtype=np.uint8)
    KINDS[kind](pixels).save(tmp_path / "image.png")
    assert np.array_equal(script.decode(tmp_path / "image.png"), decode_image(tmp_path / "image.png").values)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_script_decodes_every_kind_of_jpeg_as_we_do(mode: str, orientation: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (21, 34, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).convert(mode).save(tmp_path / "image.jpg", exif=exif)
    assert np.array_equal(script.decode(tmp_path / "image.jpg"), decode_image(tmp_path / "image.jpg").pixels)


@pytest.mark.parametrize("cut", [0, 10, 400, -2])
def test_the_script_refuses_a_cut_jpeg_as_we_do(cut: int, tmp_path: Path) -> None:
    file = tmp_path / "image.jpg"
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UnreadableImageError):
        decode_image(file)
    with pytest.raises((ValueError, OSError)):
        script.decode(file)


def in_ascii_mode(data: bytes) -> bytes:
    return data.replace(b"\n", b"\r\n")


def with_6000_scans(data: bytes) -> bytes:
    place = data.rindex(b"\xff\xda")
    return data[:-2] + (data[place : place + 10] + bytes(8)) * 6000 + data[-2:]


@pytest.mark.parametrize(
    ("change", "reason"), [(in_ascii_mode, "its line ends were changed"), (with_6000_scans, "too many scans")]
)
@pytest.mark.parametrize("progressive", [False, True])
def test_the_script_refuses_a_jpeg_that_was_changed_on_the_way_or_takes_minutes(
    change: Callable[[bytes], bytes], reason: str, progressive: bool, tmp_path: Path
) -> None:
    file = tmp_path / "image.jpg"
    pixels = np.random.default_rng(5).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, progressive=progressive)
    assert script.decode(file).shape == pixels.shape
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(UnreadableImageError, match=reason):
        decode_image(file)
    started = time.process_time()
    with pytest.raises(ValueError, match=reason):
        script.decode(file)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("ours", "theirs", "passed", "flipped"),
    [
        ([1.0, 3.0], [1.00005, 3.0], True, ()),
        ([1.0, 3.0], [1.0, 3.001], False, ()),
        ([1.99999, 3.0], [2.00001, 3.0], False, ("a",)),
        ([1.0, None], [1.0, None], True, ()),
        ([1.0, None], [1.0, 3.0], False, ()),
        ([None, None], [None, None], False, ()),
        ([1e-9, 3.0], [1.5e-9, 3.0], True, ()),
    ],
)
def test_parity_is_the_same_labels_and_scores_within_a_ten_thousandth(
    ours: list[float | None], theirs: list[float | None], passed: bool, flipped: tuple[str, ...]
) -> None:
    report = compare(["a", "b"], ours, theirs, Calibration(threshold=2.0, scale=1.0))
    assert report.passed is passed
    assert report.flipped == flipped
