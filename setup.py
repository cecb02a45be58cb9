"""Builds fastseg._C, the torch-free native core, with CMake; the rest is in pyproject.toml.

Environment: FASTSEG_CUDA=AUTO|ON|OFF (default AUTO: CUDA kernels when nvcc is found),
FASTSEG_CUDA_ARCHITECTURES (default 80-real;90-real;100), FASTSEG_CPU_DISPATCH=ON|OFF (default ON:
AVX2 and AVX-512 kernels besides the baseline's), CMAKE_BUILD_PARALLEL_LEVEL.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        # Not under self.build_temp, which is a new folder at each `pip install -e`: objects stay.
        tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        build_dir = ROOT / "build" / f"cmake-{tag}"
        version_file = (ROOT / "fastseg" / "_version.py").read_text()
        version = re.search(r'__version__ = "(.+)"', version_file).group(1)
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": target.parent,
            "Python_EXECUTABLE": sys.executable,
            # Given anew each time: under build isolation the tools lie elsewhere at every run.
            "CMAKE_MAKE_PROGRAM": shutil.which("ninja"),
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "FASTSEG_VERSION": version,
            "FASTSEG_CUDA": os.environ.get("FASTSEG_CUDA", "AUTO"),
            "FASTSEG_CPU_DISPATCH": os.environ.get("FASTSEG_CPU_DISPATCH", "ON"),
        }
        if architectures := os.environ.get("FASTSEG_CUDA_ARCHITECTURES"):
            options["FASTSEG_CUDA_ARCHITECTURES"] = architectures
        defines = [f"-D{name}={value}" for name, value in options.items()]
        build_dir.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cmake", "-G", "Ninja", "-S", ROOT, "-B", build_dir, *defines], check=True)
        subprocess.run(["cmake", "--build", build_dir], check=True)


setup(ext_modules=[Extension("fastseg._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
