"""Build the compiled part; everything else is said in pyproject.toml.

FUNKENSHIELD_BUILD chooses the build: "release" (default), "playground" (made sooner: not optimised, and without what
encrypts), "debug" (bounds and undefined behaviour are checked), "asan" or "tsan" (memory, or races, too: see
tools/sanitized), "fuzz" (memory and undefined behaviour, by clang, which tells a fuzzer where it has been: see
tools/fuzz), "profile" (line numbers kept for profilers), "none" (what is compiled stays as it is: see tools/build).
As many modules are made at once as there are cores, the largest first.
Cython's own checks see Python's objects only; the C compiler's see the arrays and copies of code without the GIL.

What encrypts is made where OpenSSL's headers are, what speaks HTTP where nghttp2's are, and either is left out
elsewhere: the rest works without it. So are programs for the kernel (*.bpf.c), where clang can.
"""

import gc
import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from Cython.Build import cythonize
from setuptools import Extension, setup

SANITIZE = {
    "debug": ["-fsanitize=undefined"],
    "asan": ["-fsanitize=address,undefined"],
    "tsan": ["-fsanitize=thread"],
    "fuzz": ["-fsanitize=address,undefined,fuzzer-no-link", "-fno-sanitize=function", "-fno-sanitize-recover=all"],
}
KIND = os.environ.get("FUNKENSHIELD_BUILD", "release")
if KIND not in {"release", "playground", "profile", "none", *SANITIZE}:
    raise SystemExit(f"FUNKENSHIELD_BUILD={KIND}: use release, playground, debug, asan, tsan, fuzz, profile or none")
if not os.access(".", os.W_OK):
    raise SystemExit(f"{os.getcwd()} cannot be written to, and what is built belongs there: make a copy of your own")
CHECKED = KIND in SANITIZE
CORES = len(os.sched_getaffinity(0))
gc.set_threshold(1_000_000)  # Cython makes large trees, and a third of its time was to look through them

if KIND == "fuzz":
    os.environ.setdefault("CC", "clang")
level = {"release": "-O3", "profile": "-O3", "playground": "-O0"}.get(KIND, "-O1")
warnings = ["-w"] if KIND == "playground" else ["-Wall", "-Wno-unused-function", "-Wno-sign-compare"]  # which take time
compile_args = ["-std=gnu11", *warnings, level]
link_args = ["-lm"]
if CHECKED:
    compile_args += [*SANITIZE[KIND], "-fno-omit-frame-pointer", "-DFUNKENSHIELD_CHECKED"]
    link_args += SANITIZE[KIND]
hidden = "-Wl,--version-script=tools/exported"  # a library that a wheel has in it clashes with none of Python's
if KIND == "debug":
    compile_args += ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3", "-ftrivial-auto-var-init=pattern"]
compile_args += [
    "-g0" if KIND in {"release", "playground"} else "-g"
]  # Python's own flags have -g: a third of the compiler's time


class Library(NamedTuple):
    """A library that one module takes, which is made where its headers are."""

    module: Path
    without: str  # what is left out, and why, elsewhere
    package: str  # as pkg-config knows it
    header: str
    is_old: str  # as the preprocessor sees it
    libs: list[str]  # where pkg-config knows nothing of it


LIBRARIES = [
    Library(
        Path("funkenshield/server/_tls.pyx"),
        "DNS over TLS for clients is left out: no headers of OpenSSL 3 (Debian: libssl-dev)",
        "openssl", "openssl/ssl.h", "OPENSSL_VERSION_NUMBER < 0x30000000L", ["-lssl", "-lcrypto"],
    ),
    Library(
        Path("funkenshield/server/_http2.pyx"),
        "DNS over HTTPS for clients is left out: no headers of nghttp2 1.41 or later (Debian: libnghttp2-dev)",
        "libnghttp2", "nghttp2/nghttp2.h", "NGHTTP2_VERSION_NUM < 0x012900", ["-lnghttp2"],
    ),
]  # fmt: skip


def ask_pkg_config(what: str, library: Library) -> list[str]:
    """Return the flags that a library takes; none where nobody knows of special ones."""
    try:
        asked = [*shlex.split(os.environ.get("PKG_CONFIG", "pkg-config")), what, library.package]
        return shlex.split(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        return []


def has_headers(library: Library, flags: list[str]) -> bool:
    """Tell whether the C compiler finds a library's headers, and they are new enough."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    given = shlex.split(f"{os.environ.get('CPPFLAGS', '')} {os.environ.get('CFLAGS', '')}")
    source = f"#include <{library.header}>\n#if {library.is_old}\n#error too old\n#endif\n"
    try:
        asked = [*shlex.split(compiler), *given, *flags, "-E", "-x", "c", "-o", os.devnull, "-"]
        return subprocess.run(asked, input=source, capture_output=True, text=True, check=False).returncode == 0
    except OSError:
        return False


def extensions() -> list[Extension]:
    """Return the compiled modules, turned into C."""
    sources = sorted(Path("funkenshield").rglob("_*.pyx"), key=lambda source: -source.stat().st_size)
    if not sources:
        raise SystemExit("there is nothing to compile: the *.pyx in funkenshield are missing")
    own = {}
    for library in LIBRARIES:
        module, flags = library.module, ask_pkg_config("--cflags", library)
        if module in sources and (KIND == "playground" or not has_headers(library, flags)):
            print(library.without if KIND != "playground" else "")
            sources.remove(module)
            for place in ("", "build/lib*/"):
                for outdated in Path().glob(f"{place}{module.with_suffix('')}.*.so"):
                    outdated.unlink()
        own[module] = (flags, [*(ask_pkg_config("--libs", library) or library.libs), hidden])
    return cythonize(
        [
            Extension(
                ".".join(source.with_suffix("").parts),
                [str(source)],
                extra_compile_args=[*compile_args, *own.get(source, ([], []))[0]],
                extra_link_args=[*link_args, *own.get(source, ([], []))[1]],
                depends=[str(each) for kind in ("*.pxd", "answers.h") for each in Path("funkenshield").rglob(kind)],
            )
            for source in sources
        ],
        nthreads=CORES if CORES > 1 else 0,
        build_dir=f"build/{KIND}",  # so that none is made from what another has checked
        force=CHECKED and KIND != "fuzz",  # which is built beside the others, and not in their place
        compiler_directives={
            "language_level": "3",
            "binding": False,
            "embedsignature": True,
            "boundscheck": CHECKED,
            "wraparound": False,
            "initializedcheck": CHECKED,
            "cdivision": True,
            "overflowcheck": False,
        },
    )


def bpf_clang() -> list[str]:
    """Return the command that makes a program for the kernel."""
    clang = [os.environ.get("BPF_CLANG", "clang"), "-target", "bpf", "-mcpu=v3", "-O2", "-Wall"]
    clang += ["-fno-strict-aliasing"]  # a frame is read and written by words of any size
    if CHECKED:
        clang += ["-Werror"]  # elsewhere, a newer clang may warn of what it likes
    if sysconfig.get_platform().rpartition("-")[2] in ("x86_64", "i686", "s390x"):  # which all else is built for
        clang += ["-DTOTAL_STORE_ORDER"]  # no read is before another that precedes it
    return [*clang, "-idirafter", f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}"]  # asm/types.h, on Debian


def compile_programs() -> None:
    """Have clang make what the kernel runs, beside its source; where it cannot make all, nothing is there."""
    for outdated in Path("funkenshield").rglob("*.bpf.o"):
        outdated.unlink()
    made: list[Path] = []
    try:
        for source in sorted(Path("funkenshield").rglob("*.bpf.c")) if KIND != "playground" else []:
            made.append(source.with_suffix(".o"))
            asked = [*bpf_clang(), "-c", str(source), "-o", str(made[-1])]
            subprocess.run(asked, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).partition("\n")[0]
        print(f"AF_XDP for clients is left out: no clang for the kernel's programs (Debian: clang): {said}")
        for each in made:
            each.unlink(missing_ok=True)


if __name__ == "__main__":  # and not in the processes that help
    compiling = KIND != "none" and not {"sdist", "egg_info", "dist_info"} & set(sys.argv)  # what only tells of sources
    if compiling:
        compile_programs()
    setup(ext_modules=extensions() if compiling else [], options={"build_ext": {"parallel": CORES}})
