# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""What is linked into the binary, and under which licence: for scripts/sbom and scripts/licences.

Crates are those that cargo links for a target, without those that only run during the build. The C libraries are those
whose sources libbpf-sys carries, with the versions of these sources, and the C library and libgcc of the compiler. They
and Rust's library are those of this machine, or for arm64 on x86-64 those of scripts/arm64.
"""

import functools
import json
import platform
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
TARGETS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]
NAME = "ubpf-tools"

# The licences that dependencies may have. Of a dual licence, the first of these is the one that the binary uses.
ALLOWED = [
    "MIT",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "Zlib",
    "0BSD",
    "ISC",
    "Unicode-3.0",
    "Unlicense",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "LGPL-2.1-or-later",
    "LGPL-3.0-or-later",
    "GPL-3.0-or-later WITH GCC-exception-3.1",
]


@dataclass
class Component:
    name: str
    version: str
    licence: str  # the SPDX expression of its authors
    purl: str
    folder: Path | None = None  # of its sources, with the licence files
    source: str = ""  # where others find its sources
    package: dict | None = None  # cargo's metadata of a crate
    checksum: str | None = None
    uses: list[str] = field(default_factory=list)  # purls

    @property
    def chosen(self):
        """The SPDX expression without the arms that the binary does not use, or None if one is not allowed."""
        licences = choose(self.licence)
        return " AND ".join(licences) if licences else None


def output(*command):
    return subprocess.run(command, cwd=TOP, check=True, stdout=subprocess.PIPE, text=True).stdout


def normalized(expression):
    """Before there were expressions, crates wrote MIT/Apache-2.0."""
    return " ".join((expression or "").replace("/", " OR ").split())


def choose(expression):
    """The licences that apply, in the order of ALLOWED. None if the expression leaves only others.

    >>> choose("(MIT OR Apache-2.0) AND Unicode-3.0")
    ['MIT', 'Unicode-3.0']
    >>> choose("GPL-2.0-only AND MIT")
    """
    tokens = re.findall(r"[()]|[^\s()]+", normalized(expression).replace(" WITH ", "_WITH_"))
    position = 0

    def either():
        nonlocal position
        arms = [both()]
        while position < len(tokens) and tokens[position] == "OR":
            position += 1
            arms.append(both())
        arms = [arm for arm in arms if arm is not None]
        return min(arms, key=lambda arm: max(map(ALLOWED.index, arm)), default=None)

    def both():
        nonlocal position
        parts = [one()]
        while position < len(tokens) and tokens[position] == "AND":
            position += 1
            parts.append(one())
        return None if None in parts else set().union(*parts)

    def one():
        nonlocal position
        token = tokens[position] if position < len(tokens) else ")"
        position += 1
        if token == "(":
            inner = either()
            position += 1
            return inner
        licence = token.replace("_WITH_", " WITH ")
        return {licence} if licence in ALLOWED else None

    found = either()
    return sorted(found, key=ALLOWED.index) if found and position == len(tokens) else None


def own_source():
    """Where the sources of the packages are: scripts/package writes this file beside them."""
    return f"{NAME}-{output('scripts/version').strip()}.src.tar.gz, published with the packages"


def metadata(target, *more):
    return json.loads(
        output("cargo", "metadata", "--format-version=1", "--locked", f"--filter-platform={target}", *more)
    )


def version_in(path, pattern):
    found = re.search(pattern, path.read_text(errors="replace"), re.M)
    if not found:
        sys.exit(f"{path} has no version")
    return ".".join(found.groups())


def crates(target):
    """The crates that the binary links, ours first."""
    tree = output(
        "cargo", "tree", "--locked", f"--target={target}", "--edges=normal,no-proc-macro", "--prefix=none", "--format={p}"
    )
    # NAME vVERSION, and for some the folder. The metadata alone would include the crates of other features.
    names = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    data = metadata(target)
    packages = {p["id"]: p for p in data["packages"] if (p["name"], f"v{p['version']}") in names}
    import tomllib  # Python 3.11; the licence check runs on older ones

    lock = tomllib.loads((TOP / "Cargo.lock").read_text())
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
    ours = data["resolve"]["root"]
    found = []
    for node in data["resolve"]["nodes"]:
        if package := packages.get(node["id"]):
            found.append(crate(package, checksums.get((package["name"], package["version"]))))
            found[-1].uses = sorted(crate_purl(packages[d["pkg"]]) for d in node["deps"] if d["pkg"] in packages)
    return sorted(found, key=lambda c: (c.package["id"] != ours, c.name, c.version))


def crate(package, checksum):
    name, version = package["name"], package["version"]
    return Component(
        name,
        version,
        normalized(package["license"]),
        crate_purl(package),
        folder=Path(package["manifest_path"]).parent,
        source=f"https://crates.io/crates/{name}/{version}" if checksum else own_source(),
        package=package,
        checksum=checksum,
    )


def crate_purl(package):
    return f"pkg:cargo/{package['name']}@{package['version'].replace('+', '%2B')}"


def c_libraries(carrier):
    """Those whose sources are in the folder of libbpf-sys."""
    libbpf = version_in(
        carrier / "libbpf/src/Makefile",
        r"LIBBPF_MAJOR_VERSION := (\d+)\nLIBBPF_MINOR_VERSION := (\d+)\nLIBBPF_PATCH_VERSION := (\d+)",
    )
    elfutils = version_in(carrier / "elfutils/configure.ac", r"^AC_INIT\(\[elfutils\],\[([\d.]+)\]")
    zlib = version_in(carrier / "zlib/zlib.h", r'^#define ZLIB_VERSION "([\d.]+)"')
    return [
        Component(
            "libbpf",
            libbpf,
            "LGPL-2.1-only OR BSD-2-Clause",
            f"pkg:github/libbpf/libbpf@v{libbpf}",
            folder=carrier / "libbpf",
            source="https://github.com/libbpf/libbpf",
        ),
        Component(
            "elfutils libelf",
            elfutils,
            "GPL-2.0-or-later OR LGPL-3.0-or-later",
            f"pkg:generic/elfutils@{elfutils}",
            folder=carrier / "elfutils",
            source="https://sourceware.org/elfutils/",
        ),
        Component(
            "zlib", zlib, "Zlib", f"pkg:generic/zlib@{zlib}", folder=carrier / "zlib", source="https://zlib.net"
        ),
    ]


def is_cross(target):
    return target.startswith("aarch64") and platform.machine() == "x86_64"


@functools.cache
def toolchain(target):
    """The versions of glibc, of GCC and of Rust."""
    if is_cross(target):
        # The program is the C library of x86-64, which is of the same Debian release as that of arm64.
        libc = output("scripts/arm64", "run", "/lib/x86_64-linux-gnu/libc.so.6").splitlines()[0]
        libc = re.search(r"version ([\d.]*\d)", libc)[1]
        gcc = output("scripts/arm64", "run", "aarch64-linux-gnu-gcc", "-dumpfullversion")
        rust = output("scripts/arm64", "run", "rustc", "--version")
    else:
        libc = output("getconf", "GNU_LIBC_VERSION").split()[1]
        gcc = output("gcc", "-dumpfullversion")
        rust = output("rustc", "--version")
    return libc, gcc.strip(), rust.split()[1]


def rust_notices(target, licences):
    """The notices of Rust's library, as text or HTML, and the texts of its licences by SPDX identifier.

    rustup installs both. Debian's copyright file has the licences in it.
    """
    if is_cross(target):
        return output("scripts/arm64", "run", "cat", "/usr/share/doc/libstd-rust-web-dev/copyright"), {}
    folder = Path(output("rustc", "--print=sysroot").strip()) / "share/doc/rust"
    if (debian := Path("/usr/share/doc/libstd-rust-dev/copyright")).exists() and not folder.exists():
        return debian.read_text(), {}
    texts = {licence: (folder / "licenses" / f"{licence}.txt").read_text() for licence in licences}
    return (folder / "COPYRIGHT-library.html").read_text(), texts


def components(target):
    """Everything in the binary, ours first."""
    libc_version, gcc_version, rust_version = toolchain(target)
    found = crates(target)
    carrier = next(c for c in found if c.name == "libbpf-sys")
    carried = c_libraries(carrier.folder)
    carrier.uses += [c.purl for c in carried]
    glibc = Component(
        "glibc",
        libc_version,
        "LGPL-2.1-or-later",
        f"pkg:generic/glibc@{libc_version}",
        source="https://sourceware.org/glibc/",
    )
    # Rust's library unwinds with its libgcc_eh, glibc calculates with its libgcc.
    libgcc = Component(
        "libgcc",
        gcc_version,
        "GPL-3.0-or-later WITH GCC-exception-3.1",
        f"pkg:generic/gcc@{gcc_version}",
        source="https://gcc.gnu.org/",
    )
    rust = Component(
        "rust-std",
        rust_version,
        # With its tables of characters, see COPYRIGHT-library.html of the toolchain.
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        f"pkg:generic/rust-std@{rust_version}",
        source="https://github.com/rust-lang/rust",
    )
    found[0].uses += [glibc.purl, libgcc.purl, rust.purl]
    return [*found, *carried, glibc, libgcc, rust]
