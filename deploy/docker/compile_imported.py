#!/usr/bin/env python3
"""Compile the modules that the processes of the core image import, by importing them.

The files of the image are read-only at run time, so a module without a compiled file is compiled at each start; all of
them would take 60 MB.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

PACKAGES = ("api", "db", "deploy", "dicom_listener")
#: Imported in a process of its own, or by a library when it runs.
LATER = (
    "celery.app.amqp",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.h11_impl",
    "worker.images.frame_server",
)


def main() -> None:
    """Import the modules; a command of an extra that is not installed is left out."""
    extra_of = importlib.import_module("deploy.cli.app").extra_of
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        names = [module.name for module in pkgutil.walk_packages(path, f"{package}.")]
        for name in [name for name in names if ".migrations." not in name]:
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:
                if extra_of(error.name or "") is None:
                    raise
    for name in LATER:
        importlib.import_module(name)


if __name__ == "__main__":
    if sys.dont_write_bytecode:
        sys.exit("PYTHONDONTWRITEBYTECODE is set: no module would be compiled")
    main()
