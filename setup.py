"""What pyproject.toml cannot say of a build: its C is plain shared libraries, so one wheel is for every Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# Without a C compiler they are left out, and a path of the kernel that it does not know (kernels/cpu/paths.h).
KERNEL = Extension(
    "metaqap_fast.engine.native._mobilenet",
    sources=sorted(glob("kernels/cpu/*.c")),
    depends=sorted(glob("kernels/cpu/*.h")),
    # Without what debuggers read: it would take as long to compile again, and eight of nine megabytes.
    extra_compile_args=["-O3", "-g0", "-fno-math-errno", "-ffp-contract=off"],
    extra_link_args=["-s"],
    libraries=["m"],
    optional=True,
)
# What is small, and of one file.
SMALL = [
    Extension(
        name,
        [source],
        extra_compile_args=["-O3", "-g0", "-ffp-contract=off"],
        extra_link_args=["-s"],
        libraries=["m"],
        optional=True,
    )
    for name, source in (
        ("metaqap_fast.formats._scan", "kernels/jpeg/scan.c"),
        ("metaqap_fast.input._files", "kernels/files/read.c"),
        ("metaqap_fast.decode._resize", "kernels/resize/cubic.c"),
    )
]


class SharedLibrary(build_ext):
    """Names them without a Python's version: they are loaded with ctypes and hold nothing of Python's."""

    def build_extensions(self) -> None:
        """The kernel's files are compiled side by side: one after the other they take a minute."""
        compiled = self.compiler.compile

        def side_by_side(sources: Sequence[str], *args: Any, **options: Any) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = pool.map(lambda source: compiled([source], *args, **options), sources)
                return [name for each in objects for name in each]

        self.compiler.compile = side_by_side
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        """One that does not compile is left out with a warning. An older one must not be used in its place."""
        try:
            super().build_extension(ext)
        except Exception:
            for old in (self.get_ext_fullpath(ext.name), self.get_ext_filename(ext.name)):
                Path(old).unlink(missing_ok=True)
            raise

    def get_ext_filename(self, fullname: str) -> str:
        """Where it stands below the folder of packages."""
        return os.path.join(*fullname.split(".")) + ".so"


class PlatformWheel(bdist_wheel):
    """Tagged py3-none-PLATFORM."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI, platform."""
        return "py3", "none", super().get_tag()[2]


setup(ext_modules=[KERNEL, *SMALL], cmdclass={"build_ext": SharedLibrary, "bdist_wheel": PlatformWheel})
