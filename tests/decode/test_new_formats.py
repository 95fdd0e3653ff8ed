"""HEIC, AVIF, JPEG XL, GIF and RAW: the pixels that were put in come out, turned once; hostile files cost a row."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageOps

from images import encode
from made import dng, heic, jxl
from metaqap_fast.decode import DecodeOptions, Limits, codecs, create
from metaqap_fast.decode.local import LocalDecoder
from metaqap_fast.decode.supervisor import Supervisor
from metaqap_fast.errors import Status
from metaqap_fast.formats import Header, read_header
from metaqap_fast.records import Decoded, Encoded

S = 64


def decode(*images: bytes, **options: object) -> list[Decoded]:
    decoder = LocalDecoder(DecodeOptions(S, **options))  # type: ignore[arg-type]
    return list(decoder.stream(Encoded(b"%d" % i, data) for i, data in enumerate(images)))


@pytest.fixture(scope="module")
def square(photo: Image.Image) -> Image.Image:
    return photo.crop((200, 100, 200 + S, 100 + S))


def light(pixels: np.ndarray) -> np.ndarray:
    """sRGB levels as shares of light."""
    v = pixels / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def files(image: Image.Image) -> dict[str, bytes]:
    """Lossless ones, so that the pixels that must come out are known without a decoder."""
    pixels = np.asarray(image)
    frames = [image, image.rotate(90), image.rotate(180)]
    return {
        "HEIC": heic(image),
        "AVIF": encode(image, "AVIF", quality=100, subsampling="4:4:4"),
        "AVIF animated": encode(
            image, "AVIF", quality=100, subsampling="4:4:4", save_all=True, append_images=frames[1:]
        ),
        "JPEG XL": jxl(pixels),
        "JPEG XL 16-bit": jxl((light(pixels) * 65535 + 0.5).astype(np.uint16)),  # which the encoder takes for light
        "JPEG XL 10-bit": jxl((light(pixels) * 1023 + 0.5).astype(np.uint16), bitspersample=10),
        "JPEG XL float": jxl(light(pixels).astype(np.float32)),
        "JPEG XL alpha": jxl(np.dstack([pixels, pixels[:, :, 0]])),
        "JPEG XL animated": jxl(np.stack([np.asarray(frame) for frame in frames])),
    }


NAMES = [*files(Image.new("RGB", (8, 8)))]


@pytest.mark.parametrize("name", NAMES)
def test_the_pixels_that_were_put_in_come_out(square: Image.Image, name: str) -> None:
    (result,) = decode(files(square)[name])
    assert result.error is None and (result.width, result.height) == (S, S)
    difference = np.abs(result.views[0].astype(int) - np.asarray(square))
    assert difference.max() <= (3 if "AVIF" in name else 7 if "10-bit" in name else 0)  # 10 bits are few for light
    assert ("pictures" in result.note or "sequence" in result.note) == ("animated" in name)


@pytest.mark.parametrize(("bits", "lossless"), [(12, False), (12, True), (10, True), (16, True)])
@pytest.mark.parametrize("gray", [False, True])
def test_jpeg_of_more_bits(square: Image.Image, bits: int, lossless: bool, gray: bool) -> None:
    import imagecodecs

    pixels = np.asarray(square.convert("L") if gray else square)
    deep = (pixels.astype(np.uint32) * ((1 << bits) - 1) // 255).astype(np.uint16)
    options = {"lossless": True} if lossless else {"level": 100, "subsampling": "444"}
    (result,) = decode(imagecodecs.jpeg8_encode(deep, bitspersample=bits, **options))
    assert result.error is None, result.error
    difference = np.abs(result.views[0].astype(int) - np.asarray(pixels if not gray else pixels[:, :, None]))
    assert difference.mean() < 1.2


def test_colours_that_were_multiplied_by_alpha(monkeypatch: pytest.MonkeyPatch) -> None:
    """No encoder here writes it: the decoder's answer is made up."""
    import imagecodecs

    straight = np.random.default_rng(0).integers(0, 256, (S, S, 3))
    alpha = np.random.default_rng(1).integers(128, 256, (S, S, 1))
    mixed = np.concatenate([(straight * alpha + 127) // 255, alpha], 2).astype(np.uint8)
    monkeypatch.setattr(imagecodecs, "jpegxl_decode", lambda *_, **__: mixed)
    for premultiplied, wanted in ((False, mixed[:, :, :3]), (True, straight)):
        header = Header(S, S, format="JPEG XL", premultiplied=premultiplied)
        assert np.abs(codecs.decode(memoryview(b""), header).astype(int) - wanted).max() <= 2 * premultiplied


def test_gray_has_three_equal_channels(square: Image.Image) -> None:
    gray = square.convert("L")
    for data in (jxl(np.asarray(gray)), heic(gray, chroma=420, matrix_coefficients=6, quality=95), encode(gray, "GIF")):
        (result,) = decode(data)
        assert result.error is None
        assert np.abs(result.views[0].astype(int) - np.asarray(gray)[:, :, None]).mean() < 2


def test_gif_first_frame(square: Image.Image) -> None:
    palette = square.quantize(64)
    data = encode(palette, "GIF", save_all=True, append_images=[palette.rotate(90)])
    (result,) = decode(data)
    assert np.array_equal(result.views[0], np.asarray(palette.convert("RGB")))
    assert result.note == "the first of 2 pictures"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_once(photo: Image.Image, orientation: int) -> None:
    upright = photo.crop((200, 100, 200 + S, 100 + S // 2))
    exif = Image.Exif()
    exif[274] = orientation
    seen = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encode(upright, "PNG", exif=exif)))))
    data = encode(upright, "AVIF", quality=100, subsampling="4:4:4", exif=exif)
    (result,) = decode(data)
    assert (result.height, result.width) == seen.shape[:2]
    shown = result.views[0][: seen.shape[0], : seen.shape[1]]
    assert np.abs(shown.astype(int) - seen).max() <= 3


@pytest.mark.parametrize("turns", range(4))
def test_a_heic_is_turned_once(photo: Image.Image, turns: int) -> None:
    """libheif turns it; EXIF, which says so too, is not followed again."""
    upright = photo.crop((200, 100, 200 + S, 100 + S // 2))
    exif = Image.Exif()
    exif[274] = (1, 8, 3, 6)[turns]
    data = heic(upright, exif=exif.tobytes())
    tagged = data.replace(b"irot\0", b"irot" + bytes([turns])) if b"irot" in data else data
    seen = np.rot90(np.asarray(upright), turns if b"irot" in data else 0)
    (result,) = decode(tagged)
    assert (result.height, result.width) == seen.shape[:2]
    assert np.array_equal(result.views[0][: seen.shape[0], : seen.shape[1]], seen)


def test_raw_preview_and_developed(photo: Image.Image) -> None:
    pixels = np.asarray(photo.crop((0, 0, 96, 64)))
    camera = Image.fromarray(pixels).convert("L").convert("RGB")  # so that it is seen which of the two is scored
    data = dng(pixels, camera, orientation=6)
    (preview,) = decode(data)
    (developed,) = decode(data, raw="develop")
    assert (preview.width, preview.height) == (developed.width, developed.height) == (64, 96)
    assert preview.note == "the camera's preview; the sensor has 96x64 pixels"
    assert developed.note == "developed from the sensor"
    shown, made = preview.views[0].astype(float), developed.views[0].astype(float)
    assert np.ptp(shown, axis=2).mean() < 1 < np.ptp(made, axis=2).mean()
    turned = np.rot90(np.asarray(camera), -1)[:64, :64]
    assert np.abs(shown - turned).mean() < 4
    assert np.corrcoef(made.mean(2).ravel(), turned[:, :, 0].ravel())[0, 1] > 0.8


def test_raw_whose_preview_is_a_thumbnail_is_developed(photo: Image.Image) -> None:
    pixels = np.asarray(photo.crop((0, 0, 96, 64)))
    (result,) = decode(dng(pixels, Image.fromarray(pixels).resize((24, 16))))
    assert result.error is None and (result.width, result.height) == (96, 64)
    assert result.note == "developed from the sensor, for its largest preview has 24x16 pixels"


def test_sensor_data_that_ends_early(photo: Image.Image) -> None:
    """LibRaw fills up with zeros and says nothing."""
    data = dng(np.asarray(photo.crop((0, 0, 96, 64))))
    hollow = data[:-6000] + bytes(6000)
    (result,) = decode(hollow)
    assert result.error is not None and result.error.status == Status.corrupt
    assert "sensor's data ends early" in str(result.error)


@pytest.mark.parametrize(
    ("name", "library", "form"),
    [("HEIC", "pi_heif", "HEIC"), ("JPEG XL", "imagecodecs", "JPEG XL"), ("DNG", "rawpy", "RAW")],
)
def test_a_missing_extra(
    square: Image.Image, name: str, library: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metaqap_fast.decode import heif

    heif._library.cache_clear()
    data = dng(np.asarray(square)) if name == "DNG" else files(square)[name]
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    (result,) = decode(data)
    assert result.error is not None and result.error.status == Status.unsupported
    assert str(result.error) == f"{form} needs another package: pip install 'metaqap-fast[formats]'"
    heif._library.cache_clear()


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    made = create(DecodeOptions(S, batch_size=8), limits=Limits(max_seconds=30))
    assert isinstance(made, Supervisor)
    yield made
    made.close()


@pytest.mark.parametrize("name", ["HEIC", "AVIF", "JPEG XL", "GIF", "DNG"])
def test_damage_anywhere_costs_only_its_row(square: Image.Image, name: str, supervisor: Supervisor) -> None:
    """In the process that runs use; what it gives is the same again."""
    pixels = np.asarray(square)
    data = {**files(square), "GIF": encode(square, "GIF"), "DNG": dng(pixels)}[name]
    rng = np.random.default_rng(len(name))

    def damaged() -> bytes:
        raw = np.frombuffer(data, np.uint8).copy()
        start, length = rng.integers(len(raw)), rng.integers(1, 48)
        part = raw[start : start + length]
        part[:] = [0 * part, 255 - 0 * part, part ^ 1 << rng.integers(8), rng.integers(0, 256, part.size)][
            rng.integers(4)
        ]
        return raw.tobytes()

    images = [*(damaged() for _ in range(24)), *(data[: len(data) * i // 8] for i in range(1, 8)), data]
    restarts = supervisor.restarts
    results = list(supervisor.stream(Encoded(b"%d" % i, each) for i, each in enumerate(images)))
    assert len(results) == len(images) and results[-1].error is None
    found = [result.error.status if result.error else Status.ok for result in results]
    assert set(found) <= {Status.ok, Status.corrupt, Status.unsupported, Status.too_large}
    assert Status.ok not in found[24:-1]
    again = list(supervisor.stream(Encoded(b"%d" % i, each) for i, each in enumerate(images)))
    for one, other in zip(results, again, strict=True):
        assert np.array_equal(one.views, other.views)  # nothing that a decoder did not write is ever shown
    assert supervisor.restarts == restarts


def test_files_that_claim_too_much_are_not_decoded() -> None:
    plain = Image.new("RGB", (64, 64))
    size, huge = (64).to_bytes(4, "big") * 2, (60_000).to_bytes(4, "big") * 2
    gif = bytearray(encode(plain, "GIF"))
    gif[6:10] = b"\xff" * 4
    xl = b"\xff\x0a" + (0 | 3 << 1 | 59_999 << 3 | 1 << 33 | 1 << 36).to_bytes(
        20, "little"
    )  # square, metadata as usual
    for data in (heic(plain).replace(size, huge), encode(plain, "AVIF").replace(size, huge), bytes(gif), xl):
        (result,) = decode(data)
        assert result.error is not None and result.error.status == Status.too_large


def test_a_size_that_is_not_the_decoded_one_is_found_out() -> None:
    plain = Image.new("RGB", (64, 64))
    lying = heic(plain).replace((64).to_bytes(4, "big") * 2, (80).to_bytes(4, "big") * 2)
    (result,) = decode(lying)
    assert result.error is not None and result.error.status == Status.corrupt


QUICK = {"preset": "ultrafast"}


@pytest.mark.full
@pytest.mark.parametrize("name", ["JPEG XL", "AVIF", "HEIC", "DNG"])
def test_memory_and_time_are_kept_for_them_too(name: str) -> None:
    """10 or 40 million pixels, with too little memory or time: `too_large`, and the neighbours are scored."""
    small = encode(Image.new("RGB", (S, S)), "PNG")
    noise = np.random.default_rng(0).integers(0, 255, (3200, 3200, 3)).astype(np.uint8)
    smooth = Image.linear_gradient("L").convert("RGB").resize((6400, 6400))  # noise takes HEIC's encoder a minute
    large = {
        "JPEG XL": lambda: jxl(noise, effort=1),
        "AVIF": lambda: encode(Image.fromarray(noise), "AVIF", speed=10, quality=50),
        "HEIC": lambda: heic(smooth, quality=50, chroma=420, matrix_coefficients=6, enc_params=QUICK),
        "DNG": lambda: dng(noise),
    }[name]()
    for limits in (Limits(max_memory=30 << 20), Limits(max_seconds=0.2)):
        supervisor = Supervisor(DecodeOptions(S, batch_size=4), limits)
        images = (small, large, small)
        results = list(supervisor.stream(Encoded(b"%d" % i, data) for i, data in enumerate(images)))
        statuses = [result.error.status if result.error else Status.ok for result in results]
        assert statuses == [Status.ok, Status.too_large, Status.ok]
        supervisor.close()


def test_headers_have_what_decoders_need(square: Image.Image) -> None:
    for data in files(square).values():
        assert read_header(data).display_size == (S, S)
