"""Build the compiled part; everything else is said in pyproject.toml.

FUNKENSHIELD_BUILD chooses the build: "release" (default), "debug" (bounds and undefined behaviour are checked),
"asan" or "tsan" (memory, or races, too: see tools/sanitized), "fuzz" (memory and undefined behaviour, by clang, which
tells a fuzzer where it has been: see tools/fuzz), "profile" (line numbers kept for profilers), "none" (what is compiled
stays as it is: see tools/build). As many modules are made at once as there are cores, the largest first.
Cython's own checks see Python's objects only; the C compiler's see the arrays and copies of code without the GIL.

What encrypts is made where OpenSSL's headers are, and left out elsewhere: the rest works without it.
"""

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SANITIZE = {
    "debug": ["-fsanitize=undefined"],
    "asan": ["-fsanitize=address,undefined"],
    "tsan": ["-fsanitize=thread"],
    "fuzz": ["-fsanitize=address,undefined,fuzzer-no-link", "-fno-sanitize=function", "-fno-sanitize-recover=all"],
}
KIND = os.environ.get("FUNKENSHIELD_BUILD", "release")
if KIND not in {"release", "profile", "none", *SANITIZE}:
    raise SystemExit(f"FUNKENSHIELD_BUILD={KIND}: use release, debug, asan, tsan, fuzz, profile or none")
if not os.access(".", os.W_OK):
    raise SystemExit(f"{os.getcwd()} cannot be written to, and what is built belongs there: make a copy of your own")
CHECKED = KIND in SANITIZE
CORES = len(os.sched_getaffinity(0))

if KIND == "fuzz":
    os.environ.setdefault("CC", "clang")
compile_args = ["-std=gnu11", "-Wall", "-Wno-unused-function", "-Wno-sign-compare", "-O1" if CHECKED else "-O3"]
link_args = ["-lm"]
if CHECKED:
    compile_args += [*SANITIZE[KIND], "-fno-omit-frame-pointer"]
    link_args += SANITIZE[KIND]
if KIND == "debug":
    compile_args += ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3", "-ftrivial-auto-var-init=pattern"]
ENCRYPTS = Path("funkenshield/server/_tls.pyx")
OPENSSL = """
#include <openssl/ssl.h>
#if OPENSSL_VERSION_NUMBER < 0x30000000L
#error too old
#endif
"""
compile_args += ["-g0" if KIND == "release" else "-g"]  # Python's own flags have -g: a third of the compiler's time


def ask_pkg_config(what: str) -> list[str]:
    """Return the flags that OpenSSL takes; none where nobody knows of special ones."""
    try:
        asked = [os.environ.get("PKG_CONFIG", "pkg-config"), what, "openssl"]
        return shlex.split(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        return []


def has_openssl(flags: list[str]) -> bool:
    """Tell whether the C compiler finds OpenSSL's headers, of version 3.0 or later."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    given = shlex.split(f"{os.environ.get('CPPFLAGS', '')} {os.environ.get('CFLAGS', '')}")
    try:
        asked = [*shlex.split(compiler), *given, *flags, "-E", "-x", "c", "-o", os.devnull, "-"]
        return subprocess.run(asked, input=OPENSSL, capture_output=True, text=True, check=False).returncode == 0
    except OSError:
        return False


def extensions() -> list[Extension]:
    """Return the compiled modules, turned into C."""
    sources = sorted(Path("funkenshield").rglob("_*.pyx"), key=lambda source: -source.stat().st_size)
    if not sources:
        raise SystemExit("there is nothing to compile: the *.pyx in funkenshield are missing")
    flags = ask_pkg_config("--cflags")
    if ENCRYPTS in sources and not has_openssl(flags):
        print("DNS over TLS for clients is left out: no headers of OpenSSL 3 (Debian: libssl-dev)")
        sources.remove(ENCRYPTS)
        for place in ("", "build/lib*/"):
            for outdated in Path().glob(f"{place}{ENCRYPTS.with_suffix('')}.*.so"):
                outdated.unlink()
    own = {ENCRYPTS: (flags, ask_pkg_config("--libs") or ["-lssl", "-lcrypto"])}
    return cythonize(
        [
            Extension(
                ".".join(source.with_suffix("").parts),
                [str(source)],
                extra_compile_args=[*compile_args, *own.get(source, ([], []))[0]],
                extra_link_args=[*link_args, *own.get(source, ([], []))[1]],
                depends=[str(header) for header in Path("funkenshield").rglob("*.pxd")],
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


if __name__ == "__main__":  # and not in the processes that help
    setup(ext_modules=extensions() if KIND != "none" else [], options={"build_ext": {"parallel": CORES}})
