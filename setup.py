"""Build of the compiled kernels, if there is a C++ compiler; all else stands in pyproject.toml."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NATIVE = Path("manifoldnorm", "linalg", "native")
# No fast-math, and no contraction behind our back: a matrix's result must not depend on its place in the batch.
FLAGS = ["-std=c++17", "-O3", "-g0", "-pthread", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno"]
FLAGS += ["-fno-trapping-math", "-Wno-psabi", "-Wno-maybe-uninitialized", "-Wno-uninitialized"]
VARIANTS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mavx2", "-mfma", "-mtune=skylake-avx512"],
}


def _for_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64") and "arm64" not in os.environ.get("ARCHFLAGS", "")


class BuildKernels(build_ext):
    """Compile each file with the instructions that its name says, into a library that knows nothing of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".native.so"  # with a dot, no tool takes it for a module

    def build_extension(self, ext: Extension) -> None:
        objects = []
        for source in ext.sources:
            variant = VARIANTS.get(Path(source).stem, []) if _for_x86() else []
            objects += self.compiler.compile(
                [source], output_dir=self.build_temp, extra_postargs=[*FLAGS, *variant], depends=ext.depends
            )
        path = self.get_ext_fullpath(ext.name)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(objects, path, extra_postargs=["-pthread"], target_lang="c++")


class Wheel(bdist_wheel):
    """A wheel for every Python, of one platform if the kernels were built."""

    def get_tag(self) -> tuple[str, str, str]:
        built = any(Path(self.bdist_dir).rglob("_kernels.*.so"))
        return "py3", "none", super().get_tag()[2] if built else "any"


KERNELS = Extension(
    "manifoldnorm.linalg.native._kernels",
    sources=[str(NATIVE / f"{name}.cpp") for name in ("dispatch", "angles", "grassmann", "baseline", "avx2", "avx512")],
    depends=[str(path) for path in sorted(NATIVE.glob("*.hpp"))],
    optional=True,
)

setup(
    ext_modules=[] if sys.platform == "win32" else [KERNELS],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
)
