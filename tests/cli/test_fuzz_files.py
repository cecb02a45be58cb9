"""Odd config.json, classes.json, checkpoints and other files of ours through the command line.

Exit code 0, or another one and one line that says why: never a traceback, never more than 2 GB or
20 seconds. FASTSEG_FUZZ=500 runs 500 cases of each kind, 2,500 in all, in place of 300;
FASTSEG_FUZZ_SEED=1 runs others.
"""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from fuzzing import Case, count, numbers, run_cases
from PIL import Image
from tiny_data import make_dataset

from fastseg import PSPNet
from fastseg.classes import numbered_classes
from fastseg.engine.config import TrainConfig
from fastseg.engine.run_folder import RUN
from fastseg.models.description import TRAINING_FORMAT, Description

pytestmark = pytest.mark.slow
safetensors = pytest.importorskip("safetensors.torch")

# Values that somebody, or some editor, puts where another one belongs.
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**63, 10**9,
    10**30, 10**399, 0.0, -0.0, 0.5, 1.5, 1e-300, 1e300, float("nan"), float("inf"), -float("inf"),
    "", "0", "1", "a", "\x00", "\n", "é", "\ud800", "[/bold]", "[red]", "../..", "/", "x" * 5000,
    "$", "$x$y", "null", "NaN", "deeplabv3", "resnet152", [], [[]], [[[[[[]]]]]], [None], [0],
    [0, 0, 0], [1, 2, 3], ["a", "b", "c"], [[0, 0, 0]] * 3, [[0, 0]], [0] * 10_000, {}, {"a": 1},
    {"": None}, {"names": []},
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something can be changed in nested lists and objects."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from places(entry, (*path, key))
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value[:4]):
            yield from places(entry, (*path, index))


def changed(rng: random.Random, content: Any, odd: Callable[[random.Random], Any]) -> Any:
    """A copy with one to three entries missing, renamed, doubled or another."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = list(places(content))
        if not found:
            return odd(rng)
        path = rng.choice(found)
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        if isinstance(parent, tuple):
            continue
        what = rng.random()
        if what < 0.15:
            del parent[path[-1]]
        elif what < 0.25 and isinstance(parent, dict):
            parent[rng.choice(("", "x", "_x", str(path[-1]).upper()))] = parent.pop(path[-1])
        elif what < 0.3 and isinstance(parent, list):
            parent.extend(parent * rng.choice((1, 50)))
        else:
            parent[path[-1]] = odd(rng)
    return content


def odd_value(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(ODD_VALUES))


def damaged(rng: random.Random, data: bytes) -> bytes:
    """The bytes cut, flipped, shifted, repeated, or with something before or after them."""
    size = len(data)
    what = rng.randrange(8)
    if what == 0:
        return data[: rng.randrange(size + 1)]
    if what == 1:
        return (
            rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b" ", b"PK", b"{", b"\x80")) + data
        )
    if what == 2:
        return data + rng.choice((b"\x00", b"}", b"x" * 100, data))
    if what == 3:
        start = rng.randrange(size + 1)
        return data[:start] + rng.randbytes(rng.randrange(1, 40)) + data[start:]
    if what == 4:
        start = rng.randrange(size + 1)
        return data[:start] + data[start + rng.randrange(1, 200) :]
    if what == 5:
        return rng.randbytes(rng.randrange(2000))
    values = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 30))):
        # Headers and ends more often than the middle, which is numbers.
        end = rng.choice((size, size, min(size, 300)))
        values[rng.randrange(end) if rng.random() < 0.7 else -1 - rng.randrange(end)] ^= (
            1 << rng.randrange(8)
        )
    return bytes(values)


def odd_json(rng: random.Random, content: Any) -> bytes:
    """JSON text of changed content, sometimes damaged or of another encoding."""
    what = rng.random()
    if what < 0.03:
        return rng.choice((b"[", b'{"a":')) * rng.choice((100, 2000, 200_000))
    if what < 0.06:
        return b"[" * 500 + b"]" * 500
    if what < 0.1:
        text = json.dumps(content)
        start = rng.choice([i for i, c in enumerate(text) if c in "0123456789"])
        return (text[:start] + rng.choice(("NaN", "Infinity", "1e999", "9" * 6000, "-", "01"))
                + text[start + 1 :]).encode()  # fmt: skip
    if what < 0.14:
        first = next(iter(content)) if isinstance(content, dict) else "a"
        text = json.dumps(content)
        return (text[:1] + json.dumps(first) + ": 5, " + text[1:]).encode()
    text = json.dumps(changed(rng, content, odd_value))
    if what < 0.75:
        return text.encode()
    if what < 0.85:
        return text.encode(rng.choice(("utf-8-sig", "utf-16", "utf-32", "utf-16-be", "latin-1")))
    return damaged(rng, text.encode())


def assert_fine(cases: Iterator[Case], least: int) -> None:
    codes: dict[int | None, int] = {}
    problems = []
    for result in run_cases(cases):
        codes[result.code] = codes.get(result.code, 0) + 1
        if result.problem:
            problems.append(result.problem)
    print(f"exit codes: {codes}")
    assert not problems, f"{len(problems)} of {sum(codes.values())}:\n" + "\n\n".join(problems[:8])
    assert sum(codes.values()) >= least
    assert 2 not in codes  # the arguments are right, whatever the files hold
    assert codes.get(1, 0) > least // 4  # the files are odd enough, and not all refused at once


@pytest.fixture(scope="module")
def photo() -> bytes:
    buffer = io.BytesIO()
    values = numpy.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=numpy.uint8)
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), {"train": 2, "val": 1}, (24, 32))


OPTIONS = {"encoder_depth": 3, "psp_out_channels": 8}
CLASSES = numbered_classes(3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of save_pretrained."""
    torch.manual_seed(0)
    model = PSPNet("mobilenet_v2", encoder_weights=None, classes=CLASSES, **OPTIONS)
    model.mean, model.std, model.working_size = (0.4, 0.4, 0.4), (0.2, 0.2, 0.2), 32
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    fields = {
        "names": ["a", "b", "c"],
        "colors": [[0, 0, 0]] * 3,
        "overlay_colors": [[9, 9, 9]] * 3,
    }
    config["_classes"] = {**fields, "background": 0}
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    """A checkpoint of fastseg train, before its first step."""
    description = Description("pspnet", "mobilenet_v2", CLASSES, 32, OPTIONS)
    torch.manual_seed(0)
    model = description.build()
    config = TrainConfig(iterations=1, batch_size=2, crop=(24, 32), working_size=32, warmup=0)
    return {
        "format": TRAINING_FORMAT,
        "description": description.as_dict(),
        "config": config.as_json(),
        "iteration": 1,
        "weights": model.state_dict(),
        "averaged": model.state_dict(),
        "optimizer": {"state": {}, "param_groups": []},
        "history": {"losses": [0.5], "validations": [{"iteration": 1, "mIoU": 0.5}]},
    }


def test_config_json(folder: Path, photo: bytes) -> None:
    rng = numbers(1)
    config = json.loads((folder / "config.json").read_text())
    cases = count(60)

    def made() -> Iterator[Case]:
        for number in range(cases):
            yield Case(
                f"config.json {number}",
                ("segment", "{folder}/a.png", "-w", "{folder}/model", "-o", "{folder}/out"),
                {"a.png": photo, "model/config.json": odd_json(rng, config)},
                {"model/model.safetensors": str(folder / "model.safetensors")},
            )

    assert_fine(made(), cases)


def test_classes_json(folder: Path, dataset: Path) -> None:
    rng = numbers(2)
    content = {"classes": ["ground", "box", "sky"], "ignore_label": [7, 9],
               "palette_rgb": [[0, 0, 0], [255, 0, 0], [0, 255, 0]]}  # fmt: skip
    cases = count(60)

    def made() -> Iterator[Case]:
        for number in range(cases):
            name = rng.choice(("classes.json", "classes.json", "meta.json"))
            yield Case(
                f"{name} {number}",
                ("eval", "{folder}", "-w", str(folder), "--out", "{folder}/out"),
                {name: odd_json(rng, content)},
                {"images": str(dataset / "images"), "labels": str(dataset / "labels")},
            )

    assert_fine(made(), cases)


def odd_tensor(rng: random.Random) -> Any:
    """A tensor, or another value, that does not belong where it is."""
    return rng.choice((
        lambda: torch.zeros(1).expand(100_000, 100_000), lambda: torch.zeros(3),
        lambda: torch.full((1,), float("nan")), lambda: torch.zeros(0), lambda: torch.tensor(1),
        lambda: torch.zeros(2, 2, device="meta"), lambda: torch.eye(3).to_sparse(),
        lambda: torch.zeros(3, dtype=torch.complex64), lambda: torch.zeros(8, dtype=torch.uint8),
        lambda: torch.zeros(8, 3, 3, 3).half(), lambda: torch.nn.Parameter(torch.zeros(8)),
        lambda: odd_value(rng), lambda: odd_value(rng), lambda: odd_value(rng),
    ))()  # fmt: skip


def saved(content: Any, plain_file: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not plain_file)
    return buffer.getvalue()


def with_odd_pickle(rng: random.Random, data: bytes) -> bytes:
    """The archive with a damaged pickle and right checksums."""
    buffer = io.BytesIO()
    compression = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        with zipfile.ZipFile(buffer, "w", compression) as target:
            for info in source.infolist():
                content = source.read(info)
                if info.filename.endswith("data.pkl"):
                    content = damaged(rng, content)
                elif rng.random() < 0.05:
                    continue
                target.writestr(info.filename, content)
    return buffer.getvalue()


def with_odd_header(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file with another header."""
    (length,) = struct.unpack("<Q", data[:8])
    header = odd_json(rng, json.loads(data[8 : 8 + length]))
    length = rng.choice((len(header), len(header), len(header), 2**40, 0))
    return struct.pack("<Q", length) + header + data[8 + length :]


def odd_checkpoint(rng: random.Random, state: dict[str, Any], plain: dict[str, Any]) -> bytes:
    content: Any = state if rng.random() < 0.6 else rng.choice((plain, {"state_dict": plain}))
    what = rng.random()
    if what < 0.5:
        try:
            return saved(changed(rng, content, odd_tensor), rng.random() < 0.2)
        except Exception:  # not everything can be pickled
            return b""
    if what < 0.7:
        return damaged(rng, saved(content, rng.random() < 0.3))
    if what < 0.85:
        return with_odd_pickle(rng, saved(content))
    data = safetensors.save(plain)
    return with_odd_header(rng, data) if what < 0.95 else damaged(rng, data)


def test_checkpoints(state: dict[str, Any], folder: Path, dataset: Path, photo: bytes) -> None:
    rng = numbers(3)
    plain = PSPNet(
        "mobilenet_v2", encoder_weights=None, classes=3, encoder_depth=3, psp_out_channels=8
    ).state_dict()
    cases = count(80)
    out = ("-o", "{folder}/out")

    def made() -> Iterator[Case]:
        for number in range(cases):
            data = odd_checkpoint(rng, state, plain)
            arguments: tuple[str, ...] = ("segment", "{folder}/a.png", "-w", "{folder}/x.pt", *out)
            if rng.random() < 0.3:
                arguments = ("eval", str(dataset), "-w", "{folder}/x.pt")
            yield Case(f"checkpoint {number}", arguments, {"a.png": photo, "x.pt": data})

    assert_fine(made(), cases)


def test_training_folders(state: dict[str, Any], dataset: Path) -> None:
    """last.pt, previous.pt and run.json of a run that is to go on."""
    rng = numbers(4)
    options = {
        "dataset": str(dataset), "model": "pspnet", "encoder": "mobilenet_v2", "iterations": 1,
        "model_options": [f"{k}={v}" for k, v in OPTIONS.items()], "working_size": 32,
        "crop": [24, 32], "scale_range": [0.5, 2.0], "batch_size": 2, "warmup": 0, "lr": 0.001,
        "ema": 0.998, "optimizer": "adamw", "seed": 0, "validate_every": 500, "bf16": False,
    }  # fmt: skip
    record = {"format": "fastseg run 1", "version": "0.1.0", "options": options}
    classes = {"names": ("ground", "box", "sky")}
    state = copy.deepcopy(state)
    state["description"]["classes"].update(classes)
    good, plain = saved(state), state["weights"]
    cases = count(60)

    def made() -> Iterator[Case]:
        for number in range(cases):
            files = {f"run/{RUN}": json.dumps(record).encode(), "run/last.pt": good}
            what = rng.random()
            if what < 0.4:
                files[f"run/{RUN}"] = odd_json(rng, record)
            else:
                files["run/last.pt"] = odd_checkpoint(rng, state, plain)
            if what > 0.8:
                files["run/previous.pt"] = rng.choice((good, damaged(rng, good)))
            # A record may well ask for a long run.
            arguments = ("train", "--resume", "-o", "{folder}/run", "--time-limit", "0.05")
            yield Case(f"run {number}", arguments, files)

    assert_fine(made(), cases)


def test_results_of_benchmarks() -> None:
    rng = numbers(5)
    stored = Path(__file__).resolve().parent.parent / "bench" / "stored.json"
    content = json.loads(stored.read_text())
    cases = count(40)

    def made() -> Iterator[Case]:
        for number in range(cases):
            data = odd_json(rng, content)
            yield Case(
                f"results {number}", ("bench", "report", "{folder}/a.json"), {"a.json": data}
            )

    assert_fine(made(), cases)
