"""Geometry of views: everything is seen, the aspect ratio is kept, shapes are fixed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from metaqap_fast.decode import DecodeOptions
from metaqap_fast.decode.views import MAX_ASPECT, cut, fine_size, fine_view, target_size

S, LINES = 32, 64


@given(st.integers(1, 30_000), st.integers(1, 30_000))
def test_fit_keeps_the_aspect_ratio_and_bounds_memory(width: int, height: int) -> None:
    w, h = target_size(width, height, S)
    assert 1 <= min(w, h) <= S and max(w, h) <= MAX_ASPECT * S
    assert w <= width and h <= height  # nothing is enlarged
    if min(width, height) >= S and max(width, height) <= MAX_ASPECT * min(width, height):
        assert min(w, h) == S
    if min(w, h) > 1:
        assert abs(w / h - width / height) <= 1.01 * (width / height) / min(w, h)


def test_what_fits_already_is_not_resized() -> None:
    assert target_size(S, 3 * S, S) == (S, 3 * S)
    assert target_size(S - 5, S, S) == (S - 5, S)


@given(st.integers(1, MAX_ASPECT * S), st.integers(1, MAX_ASPECT * S))
@example(1, 2 * S + 1)
def test_views_cover_the_image(height: int, width: int) -> None:
    w, h = target_size(width, height, S)
    index = np.arange(h * w).reshape(h, w)
    pixels = np.stack([index % 251, index // 251 % 251, index // 63001], axis=2).astype(np.uint8)
    views = cut(pixels, S)
    assert views.shape[1:] == (S, S, 3) and views.dtype == np.uint8
    seen = {tuple(p) for p in views.reshape(-1, 3)}
    margin = S // 16  # an overhang under 1/16 of a view may be cropped
    for y in {*range(margin, h - margin, 7), h // 2, h - 1 - margin}:
        for x in {*range(margin, w - margin, 7), w // 2, w - 1 - margin}:
            if 0 <= y < h and 0 <= x < w:
                assert tuple(pixels[y, x]) in seen


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [
        (S, S, 1),
        (S, S + 2, 1),
        (S, S + 3, 2),
        (S, 2 * S, 2),
        (S, 2 * S + 2, 2),
        (S, 2 * S + 3, 3),
        (S, 8 * S, 8),
        (5, S, 1),
        (1, 1, 1),
    ],
)
def test_number_of_views(height: int, width: int, count: int) -> None:
    assert len(cut(np.zeros((height, width, 3), np.uint8), S)) == count


def test_a_square_view_is_the_image_itself() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (S, S, 3), dtype=np.uint8)
    found = cut(pixels, S)
    assert np.array_equal(found[0], pixels) and np.shares_memory(found, pixels)  # not a copy


@pytest.mark.parametrize(
    ("length", "starts"),
    [
        (S, [0]),
        (S + 1, [0]),
        (S + 2, [1]),
        (S + 3, [0, 3]),
        (2 * S, [0, S]),
        (2 * S + 2, [1, S + 1]),
        (2 * S + 3, [0, 18, S + 3]),
        (4 * S + 1, [0, S, 2 * S, 3 * S]),
    ],
)
def test_where_views_are_cut(length: int, starts: list[int]) -> None:
    """Evenly, and what is cropped is cropped on both sides."""
    pixels = np.random.default_rng(length).integers(0, 256, (length, S, 3), np.uint8)
    for turned in (False, True):
        found = cut(pixels.swapaxes(0, 1) if turned else pixels, S)
        expected = [pixels[start : start + S] for start in starts]
        assert np.array_equal(found, [each.swapaxes(0, 1) for each in expected] if turned else expected)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 48), (43, 32)),  # the shorter side fits
        ((48, 64), (32, 43)),
        ((256, 32), (256, 32)),  # as long as a strip may be
        ((257, 32), (256, 32)),
        ((10_000, 100), (256, 3)),  # longer: fitted by its longer side
        ((100, 10_000), (3, 256)),
        ((30_000, 1), (256, 1)),
        ((1, 30_000), (1, 256)),
        ((31, 20), (31, 20)),  # not enlarged
        ((320, 20), (256, 16)),
    ],
)
def test_what_an_image_is_resized_to(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert target_size(*size, S) == expected


@pytest.mark.parametrize(
    ("length", "starts"),
    [
        (8 * S + 2, [1 + i * S for i in range(8)]),
        (8 * S + 3, [0, 32, 65, 97, 130, 162, 195, 227]),  # a ninth would be needed: spread instead
        (1000, [0, 138, 277, 415, 553, 691, 830, 968]),
    ],
)
def test_no_more_than_eight_views_along_a_side(length: int, starts: list[int]) -> None:
    pixels = np.random.default_rng(length).integers(0, 256, (length, S, 3), np.uint8)
    assert np.array_equal(cut(pixels, S), [pixels[start : start + S] for start in starts])
    assert np.array_equal(cut(pixels.swapaxes(0, 1), S)[-1], pixels[starts[-1] :][:S].swapaxes(0, 1))


def test_half_of_a_margin_is_cropped_on_each_side() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (49, 2 * 49 + 3, 3), np.uint8)
    assert np.array_equal(cut(pixels, 49), [pixels[:, 1:50], pixels[:, 50:99]])


def test_short_sides_are_mirrored() -> None:
    pixels = np.arange(2 * S * 3, dtype=np.uint8).reshape(2, S, 3)
    (view,) = cut(pixels, S)
    assert np.array_equal(view[:2], pixels) and np.array_equal(view[2:4], pixels[::-1])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), (64, 64)),  # twice a view
        ((63, 64), None),
        ((4000, 3000), (85, 64)),
        ((512, 64), (512, 64)),
        ((513, 64), None),  # a strip
        ((3000, 4000), (64, 85)),
        ((65, 64), (65, 64)),
    ],
)
def test_what_has_a_fine_view(size: tuple[int, int], expected: tuple[int, int] | None) -> None:
    assert fine_size(*size, LINES) == expected


def test_a_fine_view_is_no_larger_than_what_it_is_cut_from() -> None:
    assert DecodeOptions(S, fine=S).fine == S and not DecodeOptions(S).fine
    with pytest.raises(ValueError, match="a view of 32 pixels cannot be cut from 31 lines"):
        DecodeOptions(S, fine=S - 1)


@pytest.mark.parametrize("shape", [(LINES, LINES), (LINES, 99), (101, LINES), (LINES, 512)])
@pytest.mark.parametrize("tensor", [False, True])
def test_the_fine_view_is_where_most_happens(shape: tuple[int, int], tensor: bool) -> None:
    """Stripes of 4 pixels in one corner after the other, in a picture that is flat but for loud noise of one pixel."""
    height, width = shape
    rng = np.random.default_rng(0)
    for top in (0, height - S):
        for left in (0, width - S):
            pixels = np.full((*shape, 3), 100, np.uint8)
            pixels[::2, ::2, 1], pixels[1::2, 1::2, 1] = 255, 0  # its means of 2 x 2 are all the same
            pixels[top : top + S, left : left + S, 1] = np.arange(S) // 4 % 2 * 120 + rng.integers(0, 9, (S, S))
            pixels[..., 0] = rng.integers(0, 256, shape)  # red is not looked at
            found = np.asarray(fine_view(torch.from_numpy(pixels) if tensor else pixels, S))  # type: ignore[arg-type]
            assert np.array_equal(found, pixels[None, top : top + S, left : left + S])


@given(st.integers(LINES, 150), st.integers(LINES, 150), st.integers(0, 99))
def test_the_fine_view_of_a_tensor_is_that_of_an_array(height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    found = fine_view(pixels, S)
    assert found.shape == (1, S, S, 3)
    assert np.array_equal(np.asarray(fine_view(torch.from_numpy(pixels), S)), found)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(4000, 3000), (3000, 4000), (4243, 2828), (4624, 2601), (3464, 3464)])
def test_a_picture_of_12_megapixels_costs_at_most_three_views(size: tuple[int, int]) -> None:
    width, height = target_size(*size, 512)
    assert fine_size(*size, 1024) is not None and len(cut(np.zeros((height, width, 3), np.uint8), 512)) + 1 <= 3
