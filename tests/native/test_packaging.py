"""What is in the native core, the sdist and the wheel, and what importing fastseg pulls in."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
import torch
from testing_build import ROOT, native_testing_build, run

import fastseg
from fastseg import _native

CORE = _native._C.__file__ if _native._C is not None else ""


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


# The native core.


def test_core_has_the_version_of_the_package():
    assert _native._C.version == fastseg.__version__
    assert _native.load_error is None


def test_core_holds_no_torch_symbol():
    symbols = run([_tool("nm"), "-C", CORE]) + run([_tool("nm"), "-DC", CORE])
    found = [s for s in symbols.splitlines() if re.search(r"\b(c10|at|torch|caffe2)::", s)]
    assert not found


def test_core_needs_neither_torch_nor_the_cuda_runtime():
    needed = re.findall(r"NEEDED.*\[(.*)\]", run([_tool("readelf"), "-d", CORE]))
    assert needed
    foreign = ("torch", "c10", "cudart", "libcuda", "libpython")
    assert not [n for n in needed if any(f in n for f in foreign)], needed


def test_core_exports_its_entry_point_alone():
    """Nothing of ours can be replaced by, or replace, a symbol of another library."""
    exported = run([_tool("nm"), "-D", "--defined-only", CORE]).splitlines()
    assert [line.split()[-1] for line in exported] == ["PyInit__C"]


def test_csrc_includes_no_torch():
    sources = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in {".h", ".cpp", ".cu"}]
    assert sources
    include = re.compile(r"^\s*#\s*include\s*[<\"](torch|ATen|c10|caffe2)/", re.MULTILINE)
    assert not [p for p in sources if include.search(p.read_text())]


@pytest.mark.slow
def test_cpu_levels_share_no_code():
    """The linker merges a weak function of two instruction sets' objects, and the AVX-512 copy may
    win: every one must lie in the namespace of its level."""
    nm = _tool("nm")
    levels = ("avx2", "avx512")
    folders = {level: _objects(level) for level in levels}
    for level, objects in folders.items():
        for path in objects:
            weak = [
                line
                for line in run([nm, "-C", "--defined-only", path]).splitlines()
                if re.match(r"[0-9a-f]+ [Wu] ", line) and f"::{level}::" not in line
            ]
            assert not weak, f"{path.name} of level {level}"


def _objects(level: str) -> list:
    if level not in _native._C.CpuLevel.__members__ or CORE == "":
        pytest.skip("this processor family has one level")
    pattern = f"CMakeFiles/cpu_{level}.dir/**/*.o"
    count = len(list(ROOT.glob("csrc/*/*_cpu.cpp")))
    changed = max(p.stat().st_mtime for p in (ROOT / "csrc").rglob("*") if p.is_file())
    # Those of the package itself, if it was built in this folder: compiling takes minutes.
    for build in ROOT.glob("build/cmake-*"):
        objects = list(build.glob(pattern))
        if len(objects) == count and min(p.stat().st_mtime for p in objects) > changed:
            return objects
    with native_testing_build() as build:
        run(["cmake", "--build", build, "--target", f"cpu_{level}"])
    objects = list(build.glob(pattern))
    assert len(objects) == count
    return objects


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.skipif(not _native.has_cuda(), reason="built without CUDA")
def test_cuda_launch_without_a_device_is_an_exception():
    core = _native._C.upsample_bilinear
    shape = core.Shape(
        batch=1,
        channels=1,
        in_h=2,
        in_w=2,
        out_h=4,
        out_w=4,
        align_corners=False,
        scale_h=0.0,
        scale_w=0.0,
        channels_last=False,
    )
    x = torch.zeros(16)
    with pytest.raises(RuntimeError, match="upsample_bilinear forward: no usable CUDA device"):
        core.cuda_forward(0, x.data_ptr(), x.data_ptr(), shape, 0)


# The package.


def test_import_is_lean():
    """fastseg needs torch and nothing else at import; compilers and models come when used."""
    code = "import sys, fastseg; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = run([sys.executable, "-c", code], cwd=ROOT).split()
    assert "fastseg" in loaded
    heavy = {"triton", "torchvision", "timm", "transformers", "matplotlib", "PIL", "typer", "rich"}
    assert not heavy & set(loaded)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory):
    """The sdist, built from the tracked files alone."""
    folder = tmp_path_factory.mktemp("sdist")
    tree = folder / "tree"
    tree.mkdir()
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, tracked.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)
    options = ["--no-isolation", "--sdist", "--outdir", folder]
    run([sys.executable, "-m", "build", *options, tree], cwd=folder)
    (path,) = folder.glob("*.tar.gz")
    return path


SHIPPED_WEIGHTS = ["fastseg/models/default/model.safetensors"]


def _assert_no_foreign_files(names: list[str]) -> None:
    assert names
    assert [n for n in names if n.endswith((".safetensors", ".pth", ".pt"))] == SHIPPED_WEIGHTS
    for name in names:
        assert "shared" not in name.split("/"), name
        assert ".." not in name and not name.startswith("/"), name


@pytest.mark.slow
def test_sdist_holds_all_that_a_build_needs(sdist):
    with tarfile.open(sdist) as archive:
        names = [m.name.split("/", 1)[-1] for m in archive.getmembers() if m.isfile()]
        size = sum(m.size for m in archive.getmembers())
    _assert_no_foreign_files(names)
    sources = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in {".h", ".cpp", ".cu"}]
    needed = {"CMakeLists.txt", "setup.py", "pyproject.toml", "LICENSE", "cmake/cpu_levels.cmake"}
    needed |= {str(p.relative_to(ROOT)) for p in sources}
    assert needed <= set(names)
    assert not [n for n in names if n.endswith((".so", ".o", ".npz"))]
    assert size < 20e6


@pytest.mark.slow
def test_wheel_of_the_sdist_installs_and_runs(sdist, tmp_path, monkeypatch):
    """Built from the sdist, to be quick without CUDA and for one instruction set, and imported from
    elsewhere."""
    monkeypatch.setenv("FASTSEG_CUDA", "OFF")
    monkeypatch.setenv("FASTSEG_CPU_DISPATCH", "OFF")
    options = ["--no-build-isolation", "--no-deps", "--no-cache-dir"]
    run([sys.executable, "-m", "pip", "wheel", *options, "-w", tmp_path, sdist], cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"fastseg_kernels-{fastseg.__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    _assert_no_foreign_files(names)
    assert all(n.startswith(("fastseg/", "fastseg_kernels-")) for n in names), names
    assert not [n for n in names if n.endswith((".cu", ".cpp", ".npz"))]
    code = (
        "import torch, fastseg, fastseg._native as n; print(fastseg.__file__, n.load_error);"
        "print(tuple(fastseg.upsample_bilinear(torch.ones(1, 2, 3, 3), 6).shape));"
        "from fastseg.models import default_model; print(type(default_model()).__name__)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    lines = run([sys.executable, "-c", code], cwd=tmp_path).splitlines()
    assert lines[0].startswith(str(tmp_path)) and lines[0].endswith(" None")
    assert lines[1] == "(1, 2, 6, 6)"
    assert lines[2] == "DeepLabV3Plus"
