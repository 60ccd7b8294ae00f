"""Build `hits.pyx`, which no package has, into the folder for what is built; import it."""

import importlib.util
from pathlib import Path
from types import ModuleType

from Cython.Build import cythonize
from setuptools import Distribution, Extension

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BUILT = ROOT / "build" / "micro"


def hits() -> ModuleType:
    """Return the compiled module, built anew where its source or the package is newer."""
    directives = {"language_level": "3", "boundscheck": False, "wraparound": False, "cdivision": True}
    extension = Extension(
        "hits", [str(HERE / "hits.pyx")], extra_compile_args=["-O3"],
        depends=[str(header) for header in (ROOT / "funkenshield").glob("*.p[xy][dx]")],
    )  # fmt: skip
    made = cythonize(
        [extension], build_dir=str(BUILT), include_path=[str(ROOT)], compiler_directives=directives, quiet=True
    )
    command = Distribution({"ext_modules": made}).get_command_obj("build_ext")
    command.build_lib = command.build_temp = str(BUILT)
    command.ensure_finalized()
    command.run()
    spec = importlib.util.spec_from_file_location("hits", command.get_ext_fullpath("hits"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
