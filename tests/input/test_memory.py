"""Arrays and PIL images score as lossless files of them do."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from images import encode
from metaqap_fast import Scorer, UsageError, decode
from metaqap_fast.input.memory import rgb
from metaqap_fast.records import Encoded

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (70, 90, 4), np.uint8)
DEEP = np.concatenate([np.arange(1 << 16), RNG.integers(0, 1 << 16, 64)]).astype(np.uint16).reshape(-1, 320)
RGB = Image.fromarray(NOISE[..., :3].copy())


def decoded(data: bytes) -> np.ndarray:
    """The pixels that the decoder makes of a file."""
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    (image,) = decode.create(decode.DecodeOptions(1024)).stream(
        [Encoded(b"", data)]
    )  # a view that is larger than the image: it is not resized
    assert image.error is None, image.error
    height, width = pixels.shape[:2]
    return image.views[0][:height, :width]


def palette() -> Image.Image:
    image = RGB.quantize(100)
    image.info["transparency"] = 3
    return image


@pytest.mark.parametrize(
    ("array", "image", "form"),
    [
        (NOISE[..., 0], Image.fromarray(NOISE[..., 0].copy()), "PNG"),
        (NOISE[..., :1], Image.fromarray(NOISE[..., 0].copy()), "PNG"),
        (NOISE[..., :2], Image.fromarray(NOISE[..., :2].copy(), "LA"), "PNG"),
        (NOISE[..., :3], RGB, "PNG"),
        (NOISE, Image.fromarray(NOISE), "PNG"),
        (NOISE, Image.fromarray(NOISE), "TIFF"),
        (NOISE[..., 0] > 100, Image.fromarray(NOISE[..., 0] > 100), "PNG"),
        (DEEP, Image.fromarray(DEEP), "PNG"),
        (DEEP, Image.fromarray(DEEP), "TIFF"),
        (DEEP.astype(">u2")[..., None], Image.fromarray(DEEP), "PNG"),
        (None, palette(), "PNG"),
        (None, Image.fromarray(NOISE, "CMYK"), "TIFF"),
        (None, Image.fromarray(NOISE, "RGBX"), None),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_pixels_are_those_of_a_file(array: np.ndarray | None, image: Image.Image, form: str | None) -> None:
    expected = decoded(encode(image, form)) if form else NOISE[..., :3]
    for given in (array, image):
        if given is not None:
            found = rgb(given, "it")
            assert found.dtype == np.uint8 and found.flags.c_contiguous and found.flags.owndata
            assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("image", "same"),
    [
        (Image.fromarray(DEEP.astype(np.int32)), DEEP),
        (Image.fromarray(DEEP).convert("I"), DEEP),
        (Image.frombytes("I;16B", DEEP.shape[::-1], DEEP.astype(">u2").tobytes()), DEEP),
        (RGB.convert("YCbCr"), np.asarray(RGB.convert("YCbCr").convert("RGB"))),
        (Image.fromarray(NOISE).convert("RGBa"), np.asarray(Image.fromarray(NOISE).convert("RGBa").convert("RGBA"))),
        (palette().convert("PA"), np.asarray(palette().convert("RGB"))),
    ],
)
def test_other_modes(image: Image.Image, same: np.ndarray) -> None:
    assert np.array_equal(rgb(image, "it"), rgb(same, "it"))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_an_opened_file_is_turned_as_its_orientation_says(form: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"a.{form.lower()}"
    RGB.save(path, exif=exif)
    (image,) = decode.create(decode.DecodeOptions(1024)).stream([Encoded(b"", path.read_bytes())])
    assert (image.width, image.height) == (70, 90)
    with Image.open(path) as opened:
        found = rgb(opened, "it")
    assert found.shape == (90, 70, 3)
    tolerance = 3 if form == "JPEG" else 0  # PIL's JPEG decoder is another one
    assert np.abs(found.astype(int) - image.views[0][:90, :70]).max() <= tolerance


@pytest.mark.parametrize("shape", [(300, 200), (64, 64), (40, 1000)])
def test_a_16_bit_gray_file_and_its_array_have_the_same_score(bundle: Path, shape: tuple[int, int]) -> None:
    arrays = [RNG.integers(0, 1 << 16, shape, np.uint16), (RNG.random(shape) * 255).astype(np.uint8)]
    images = [Image.fromarray(array) for array in arrays]
    with Scorer(bundle, precision="fp32") as scorer:
        tables = [
            scorer.score_bytes(encode(image, "PNG") for image in images),
            scorer.score_arrays(arrays),
            scorer.score_arrays(image for image in images),
        ]
    for table in tables[1:]:
        assert table.ok.all() and table.members.tobytes() == tables[0].members.tobytes()
        assert table.score.tobytes() == tables[0].score.tobytes()


def test_a_generator_may_use_one_memory_for_all_its_images(bundle: Path) -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    buffer = bytearray(encode(Image.fromarray(frame), "PPM"))

    def frames() -> Iterator[np.ndarray]:
        for value in range(100):
            frame[:] = value
            yield frame

    def files() -> Iterator[bytearray | memoryview]:
        for value in range(100):
            buffer[-frame.size :] = bytes([value]) * frame.size
            yield buffer if value % 2 else memoryview(buffer)

    with Scorer(bundle, precision="fp32") as scorer:
        for table in (scorer.score_arrays(frames()), scorer.score_bytes(files())):
            assert table.members[:, 0] == pytest.approx(np.arange(100) / 255, abs=1e-5)
        assert scorer.score_arrays(np.full((2, 8, 8, 3), 51, np.uint8)).members[:, 0] == pytest.approx(0.2, abs=1e-5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (None, "images[1] is None, not an array or a PIL image"),
        (b"...", "images[1] is a bytes, not an array or a PIL image: for the bytes of image files use score_bytes"),
        ("a.jpg", "images[1] is a str, not an array or a PIL image: for the names of files use score"),
        ([[1, 2]], "images[1] is a list, not an array or a PIL image"),
        (np.zeros((4, 4, 3)), "is float64 [4, 4, 3], not uint8, uint16 or bool: scale it to 0..255"),
        (np.zeros((4, 4), np.int64), "is int64 [4, 4], not uint8, uint16 or bool: scale it"),
        (np.zeros((4, 4), np.uint32), "is uint32 [4, 4], not uint8"),
        (np.zeros((4, 4), object), "is object [4, 4], not uint8, uint16 or bool"),
        (np.zeros(9, np.uint8), "is uint8 [9], not [H, W] or [H, W, channels], channels 1 to 4"),
        (np.zeros((3, 8, 9), np.uint8), "is uint8 [3, 8, 9], not [H, W] or [H, W, channels], channels 1 to 4: are its"),
        (np.zeros((8, 9, 5), np.uint8), "is uint8 [8, 9, 5], not [H, W] or [H, W, channels], channels 1 to 4"),
        (np.zeros((8, 9, 0), np.uint8), "is uint8 [8, 9, 0]: it has no pixels"),
        (np.zeros((0, 4, 3), np.uint8), "is uint8 [0, 4, 3]: it has no pixels"),
        (np.zeros((1, 8, 8, 3), np.uint8), "is uint8 [1, 8, 8, 3], not"),
        (Image.new("F", (4, 4)), "images[1] is a PIL image of mode F: convert it to RGB"),
        (Image.new("LAB", (4, 4)), "images[1] is a PIL image of mode LAB: convert it to RGB"),
        (Image.new("I", (4, 4), 70000), "images[1] is a PIL image of mode I: convert it to RGB"),
        (Image.new("I", (4, 4), -1), "images[1] is a PIL image of mode I: convert it to RGB"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,  # no address, which every worker has
)
def test_what_is_no_image_names_its_index(scorer: Scorer, bad: object, message: str) -> None:
    with pytest.raises(UsageError) as error:
        scorer.score_arrays([np.zeros((4, 4, 3), np.uint8), bad])
    assert message in str(error.value) and str(error.value).startswith("images[1] is")


def test_a_pil_image_that_cannot_be_read_names_its_index(scorer: Scorer, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(encode(RGB, "PNG")[:3000])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(UsageError, match=r"images\[0\] is a PIL image that"):
        scorer.score_arrays([image])


def test_a_tensor_is_an_array(scorer: Scorer) -> None:
    import torch

    array = NOISE[..., :3]
    assert scorer.score_arrays([torch.from_numpy(array)]).score == scorer.score_arrays([array]).score
    with pytest.raises(UsageError, match="cannot be made an array"):
        scorer.score_arrays([torch.zeros(4, 4, requires_grad=True)])
    with pytest.raises(UsageError, match=r"images is an array \[70, 90, 3\] of torch.uint8"):
        scorer.score_arrays(torch.from_numpy(array))


@pytest.fixture(scope="module")
def scorer(bundle: Path) -> Iterator[Scorer]:
    with Scorer(bundle, precision="fp32") as scorer:
        yield scorer
