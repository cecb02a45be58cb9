"""Checkpoint files from outside: read, or refused in one line before they cost anything."""

from __future__ import annotations

import collections
import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fastseg
from fastseg.models.tensor_files import read_tensors

GLOBAL = "c{}\n{}\n"
BIG = b"J" + struct.pack("<i", 2**31 - 1)


def refused(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and len(message.splitlines()) == 1
    return message.removeprefix(f"{path}: ")


def with_pickle(path: Path, instructions: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """A file of torch.save with another pickle in it."""
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(4.0)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", compression) as target:
        for info in source.infolist():
            is_pickle = info.filename.endswith("data.pkl")
            target.writestr(info.filename, instructions if is_pickle else source.read(info))
    return path


@pytest.mark.parametrize("plain_file", [False, True])
def test_what_torch_saves_is_read(tmp_path: Path, plain_file: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    shared = torch.zeros(1000)
    content = {
        "state_dict": model.state_dict(),
        "parameter": model[0].weight,
        "optimizer": optimizer.state_dict(),
        "history": [0.5] * 5000,
        "numbers": (random.Random(0).getstate(), 10**30, -1, 1j, b"bytes", None, True),
        "milestones": collections.Counter({3: 1, 7: 2}),
        "kinds": [torch.float16, torch.device("cpu"), torch.Size([1, 2])],
        "names": {"a", "b"},
        "half": torch.ones(3, dtype=torch.bfloat16),
        "views": [shared, shared[:10], shared.view(10, 100), shared[5:6].expand(50, 50)],
        "none": torch.zeros(0, 5),
    }
    path = tmp_path / "a.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not plain_file)
    read = read_tensors(path)
    assert read.keys() == content.keys()
    assert torch.equal(read["state_dict"]["0.weight"], model[0].weight)
    assert torch.equal(read["views"][3], shared[5:6].expand(50, 50))
    assert read["numbers"] == content["numbers"] and read["milestones"] == content["milestones"]


@pytest.mark.parametrize("plain_file", [False, True])
def test_a_small_file_of_huge_tensors(tmp_path: Path, plain_file: bool) -> None:
    path = tmp_path / "a.pt"
    weights = {f"layer{i}": torch.zeros(1).expand(20_000, 20_000) for i in range(300)}
    torch.save({"model": weights}, path, _use_new_zipfile_serialization=not plain_file)
    assert path.stat().st_size < 200_000
    message = refused(path)
    for words in ("take 480000000000 bytes", "model.layer", "(20000, 20000)", "tensor_bytes"):
        assert words in message
    torch.save({"a": torch.zeros(1).expand(9000, 9000)}, path)
    assert "tensor_bytes" in refused(path)
    with fastseg.use_limits(tensor_bytes=400_000_000):
        assert read_tensors(path)["a"].shape == (9000, 9000)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.zeros(3, device="meta"), "_rebuild_meta_tensor_no_storage"),
        (lambda: torch.eye(3).to_sparse(), "_rebuild_sparse_tensor"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "_rebuild_qtensor"),
        (lambda: torch.zeros(3, dtype=torch.complex64), "a is a tensor of dtype complex64"),
    ],
    ids=["meta", "sparse", "quantized", "complex"],
)
def test_tensors_that_are_no_weights(
    tmp_path: Path, make: Callable[[], torch.Tensor], words: str
) -> None:
    torch.save({"a": make()}, tmp_path / "a.pt")
    assert words in refused(tmp_path / "a.pt")


def called(module: str, name: str, arguments: bytes, instruction: bytes = b"R") -> bytes:
    return b"\x80\x02" + GLOBAL.format(module, name).encode() + arguments + instruction + b"."


@pytest.mark.parametrize(
    ("instructions", "words"),
    [
        (called("builtins", "bytearray", BIG + b"\x85"), "it calls builtins.bytearray"),
        (called("torch", "FloatStorage", BIG + b"\x85"), "it calls torch.FloatStorage"),
        (called("torch", "Tensor", BIG + b"\x85", b"\x81"), "it calls torch.Tensor"),
        (called("posix", "system", b"X\x02\x00\x00\x00ls\x85"), "it calls posix.system"),
        (called("torch", "hub", b")"), "it calls torch.hub"),
        # Keys whose hash recurses 200 000 times, or takes 2^60 steps.
        (b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.", "a key with more than 100 parts"),
        (b"\x80\x02})" + 60 * b"q\x00h\x00\x86" + b"Ns.", "a key with more than 100 parts"),
        (
            called("builtins", "set", b"])" + 60 * b"q\x00h\x00\x86" + b"a\x85"),
            "a key with more than 100 parts",
        ),
        (b"\x80\x02" + b"(" * 100_000 + b".", "truncated, damaged"),
        (b"\x80\x04\x95" + b"\x00" * 8 + b"}.", "it has the instruction FRAME"),
        (b"\x80\x02}.", ""),
        (b"\x80\x02h\x05.", "truncated, damaged"),
        (b"", "truncated, damaged"),
        (pickle.dumps({"a": 1}, 0), "it has the instruction"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("plain_file", [False, True])
def test_pickles_that_cost_more_than_they_hold(
    tmp_path: Path, instructions: bytes, words: str, plain_file: bool
) -> None:
    path = tmp_path / "a.pt"
    if plain_file:
        path.write_bytes(3 * b"\x80\x02N." + instructions)
    else:
        with_pickle(path, instructions)
    if words or plain_file:
        assert (words or "truncated, damaged") in refused(path)
    else:
        assert read_tensors(path) == {}


def test_values_nested_without_end(tmp_path: Path) -> None:
    """Many lists in each other, and 2^60 paths to one list: read, for nothing walks them."""
    depth = 50_000
    path = with_pickle(tmp_path / "a.pt", b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".")
    assert len(read_tensors(path)) == 1
    with pytest.raises(ValueError, match=r"a\.pt: holds no state dict"):
        fastseg.load_checkpoint(path)
    with_pickle(path, b"\x80\x02]" + 60 * b"q\x00]h\x00ah\x00a" + b".")
    assert len(read_tensors(path)) == 2


def test_archives_that_unpack_to_far_more(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.zeros(10_000_000)}, path)
    with zipfile.ZipFile(path) as source:
        with zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as target:
            for info in source.infolist():
                target.writestr(info.filename, source.read(info))
    path.unlink()
    path = tmp_path / "b.pt"
    assert path.stat().st_size < 100_000
    with fastseg.use_limits(tensor_bytes=1 << 25):
        message = refused(path)
    assert "unpack to 40" in message and "tensor_bytes" in message
    assert read_tensors(path)["a"].shape == (10_000_000,)


def test_a_storage_that_claims_more_than_its_record(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(4.0)}, buffer)
    with zipfile.ZipFile(buffer) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        instructions = archive.read(name)
    longer = b"J" + struct.pack("<i", 10**9)
    lying = instructions.replace(b"K\x04t", longer + b"t").replace(b"K\x04\x85", longer + b"\x85")
    assert lying != instructions
    assert "truncated, damaged" in refused(with_pickle(tmp_path / "a.pt", lying))


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [10**15, 10**15 + 4]}},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": None},
        {"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}},
    ],
)
def test_safetensors_headers(tmp_path: Path, header: dict[str, Any]) -> None:
    pytest.importorskip("safetensors")
    text = json.dumps(header).encode()
    path = tmp_path / "a.pt"
    for length in (len(text), 2**63, 10):
        path.write_bytes(struct.pack("<Q", length) + text + bytes(8))
        assert "safetensors" in refused(path) or "complex64" in refused(path)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for data in (b"", b"no", b"PK", b"{}", b"\x89PNG\r\n\x1a\n", bytes(1000), b"PK\x03\x04"):
        path.write_bytes(data)
        assert "checkpoint of torch.save or safetensors" in refused(path)
    with pytest.raises(OSError):
        read_tensors(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>not found</html>", "a web page"),
        (b"", "an empty file"),
    ],
)
def test_what_a_failed_download_left_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(content)
    assert words in refused(path)
    image = pytest.importorskip("fastseg.data.images", exc_type=ImportError)
    with pytest.raises(image.ImageError, match=words):
        image.read_image(path)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("kind", ["parameter", "statistics"])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float, kind: str) -> None:
    """A model with one gives the first class everywhere, and no other sign."""
    from fastseg.engine.architectures import load_model

    model = fastseg.PSPNet("mobilenet_v2", encoder_depth=3, encoder_weights=None, classes=2)
    names = [n for n, v in model.state_dict().items() if v.is_floating_point()]
    name = next(n for n in names if n.endswith("weight" if kind == "parameter" else "running_var"))
    model.state_dict()[name].view(-1)[-1] = value
    model.save_pretrained(tmp_path / "folder")
    torch.save(model.state_dict(), tmp_path / "best.pt")
    for path in (tmp_path / "folder", tmp_path / "best.pt"):
        with pytest.raises(ValueError, match=f"{path.name}: {name} holds NaN or infinity"):
            load_model(path)
