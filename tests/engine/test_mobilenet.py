"""Which graphs the native engine takes, and what it reads of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from metaqap_fast.engine.native.isa import PATHS, Isa
from metaqap_fast.engine.native.kernel import Kernel
from metaqap_fast.engine.native.reader import Unsuited, read
from metaqap_fast.model import bundle as bundles
from native_reference import exported, graph, member, need

BUNDLE = bundles.load()


def model(size: int = 512) -> Any:
    return graph(BUNDLE.members[0].file, size)


def test_what_is_read_of_a_member() -> None:
    network = read(model())
    assert network.size == 512 and network.epsilon == pytest.approx(1e-6)
    assert network.mean == pytest.approx(np.array([0.485, 0.456, 0.406]) * 255, rel=1e-5)
    assert len(network.blocks) == 18 and network.blocks[0].expand is None and network.blocks[-1].depthwise is None
    assert sum(block.residual for block in network.blocks) == 10
    strides = [block.depthwise.stride for block in network.blocks if block.depthwise]
    assert [i for i, stride in enumerate(strides) if stride == 2] == [1, 3, 6, 13]
    assert len(network.weights) == 3 * (32 + sum(len((b.depthwise or b.expand).bias) for b in network.blocks))  # type: ignore[union-attr]


def test_views_of_any_size_are_read() -> None:
    assert read(model(384)).blocks[-1].expand.size == (12, 12)  # type: ignore[union-attr]
    assert read(model(1024)).blocks[-1].expand.size == (32, 32)  # type: ignore[union-attr]


BLOCKS = ("ds_r1_k3_s2_e1_c16", "ir_r1_k5_s2_e6_c24")


@pytest.mark.parametrize(
    ("blocks", "options", "words"),
    [
        (BLOCKS, {"activation": nn.ReLU}, "expected one Maximum, found 0"),
        (BLOCKS, {"activation": nn.SiLU}, "expected one Maximum, found 0"),
        (("ds_r1_k3_s2_e1_c16", "ir_r1_k7_s2_e6_c24"), {}, "neither 3x3 nor 5x5"),
        (("ds_r1_k3_s2_e1_c16_se0.25", "ir_r1_k3_s2_e6_c24"), {}, "expected one"),
        (("ir_r1_k3_s2_e6_c16",), {}, "expected one GroupConvolution"),
    ],
)
def test_networks_of_another_kind_are_refused(
    tmp_path: Path, blocks: tuple[str, ...], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(Unsuited, match=words):
        read(exported(member(blocks, 64, **options), tmp_path / "member.onnx"))


@pytest.mark.parametrize(
    ("blocks", "options", "words"),
    [
        (("ds_r1_k3_s2_e1_c20", "ir_r1_k5_s2_e6_c24"), {}, "120 wide channels, not a multiple of 16"),
        (BLOCKS, {"stem": 48}, "48 channels of the stem, not a multiple of 32"),
    ],
)
def test_networks_that_only_some_paths_run(
    tmp_path: Path, blocks: tuple[str, ...], options: dict[str, Any], words: str
) -> None:
    network = read(exported(member(blocks, 64, **options), tmp_path / "member.onnx"))
    for isa in PATHS["bf16"]:
        need(isa, "bf16")
        with pytest.raises(Unsuited, match=words):
            Kernel(network, isa)
    Kernel(network, Isa.PORTABLE)


@pytest.mark.parametrize(
    ("isa", "size", "words"),
    [
        (Isa.AVX512_BF16, 500, "views of 500 pixels, not a multiple of 32"),
        (Isa.AVX512_BF16, 224, "rows of 7 pixels, fewer than 8"),
        (Isa.AMX, 384, "views of 384 pixels, not a multiple of 512"),
    ],
)
def test_views_that_only_some_paths_take(isa: Isa, size: int, words: str) -> None:
    need(isa, "bf16")
    with pytest.raises(Unsuited, match=words):
        Kernel(read(model(size)), isa)
