#!/usr/bin/env python3
"""Delete from a Python environment the files that no process of Prelim uses.

drop_unused.py /opt/prelim

It needs the standard library only, because it runs in an image that has nothing else.
"""

from __future__ import annotations

import re
import shutil
import struct
import sys
from pathlib import Path

#: Folders of tests and of their data.
TESTS = {"tests", "test", "test_files"}
#: Modules for the tests of NumPy; AVIF, in which DICOM has no transfer syntax and without which Pillow works.
UNUSED = re.compile(r"/(numpy/_core/(_simd|\w+_tests)\.|PIL/_avif\.|pillow\.libs/libavif-)")
#: Static libraries and stubs, for compilers and type checkers.
DEVELOPMENT = {".a", ".pyi"}
#: ELF, 64 bits, little-endian. Of its header the offsets of programs and sections, size and number of programs; of a
#: program (segment) the offset and size in the file (elf(5)).
ELF, HEADER, SEGMENT = b"\x7fELF\x02\x01", struct.Struct("<32xQQ6xHH6x"), struct.Struct("<8xQ16xQ16x")
#: Bytes of the header that locate the sections: offset; size, number, index of names.
SECTION_OFFSET, SECTION_TABLE = slice(40, 48), slice(58, 64)


def main() -> None:
    """Reduce the environment that the command line names."""
    root = Path(sys.argv[1])
    for folder in [path for path in root.rglob("*") if path.name in TESTS and path.is_dir()]:
        shutil.rmtree(folder, ignore_errors=True)
    for path in files(root):
        if UNUSED.search(path.as_posix()) or path.suffix in DEVELOPMENT:
            path.unlink()
    for path in files(root):
        if ".so" in path.suffixes:
            link_copies(path)
    for path in files(root):
        if ".so" in path.suffixes:
            drop_symbols(path)


def files(root: Path) -> list[Path]:
    """Return the regular files below *root*, those with the longest names of a folder first."""
    found = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return sorted(found, key=lambda path: len(path.name), reverse=True)


def link_copies(library: Path) -> None:
    """Replace copies of a library by links: a wheel, which has none, holds libX.so.3.2.6 as libX.so.3.2 and libX.so."""
    if library.is_symlink():
        return
    for other in library.parent.glob(f"{library.name.partition('.so')[0]}.so*"):
        if other != library and not other.is_symlink() and other.read_bytes() == library.read_bytes():
            other.unlink()
            other.symlink_to(library.name)


def drop_symbols(library: Path) -> None:
    """Cut off symbols and debug sections after the last segment: the dynamic loader reads segments only."""
    with library.open("r+b") as file:
        header = bytearray(file.read(HEADER.size))
        if not header.startswith(ELF):
            return
        segments, sections, size, number = HEADER.unpack(header)
        file.seek(segments)
        end = max(sum(SEGMENT.unpack(file.read(size))) for _ in range(number))
        if sections < end:  # segments were added after the sections, for another name of a library
            return
        header[SECTION_OFFSET], header[SECTION_TABLE] = bytes(8), bytes(6)
        file.seek(0)
        file.write(header)
        file.truncate(end)


if __name__ == "__main__":
    main()
