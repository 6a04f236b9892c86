"""The GPUs: visible to this container, with a driver for the installed torch, with memory, without faults."""

from __future__ import annotations

import math
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deploy.operate.doctor.finding import Check, Finding, NotChecked, fault, not_checked, ok, warning

if TYPE_CHECKING:
    from deploy.operate.doctor.finding import Installation

PROGRAM = "nvidia-smi"
FIELDS = ("name", "driver_version", "memory.total", "ecc.errors.uncorrected.volatile.total")
#: Seconds for nvidia-smi; with persistence mode off it loads the driver first.
ANSWER_SECONDS = 20
#: Oldest driver on Linux for each major version of CUDA (NVIDIA, CUDA Compatibility, table 1).
MIN_DRIVERS = {"11": 450, "12": 525, "13": 580}
#: Share of a GPU's memory that weights may take; the rest is KV cache and workspace.
WEIGHTS_SHARE = 0.85


class Gpu(NamedTuple):
    """A GPU as its driver reports it; *memory* in MiB, *errors* `[N/A]` without ECC."""

    name: str
    driver: str
    memory: int
    errors: str


def _wanted(installation: Installation) -> bool:
    """Return whether the settings or the installed torch require a GPU."""
    device = installation.settings.model.device
    return device.startswith("cuda") or (device == "auto" and _cuda_of_torch() is not None)


def _cuda_of_torch() -> str | None:
    """Return the major version of CUDA that the installed torch was built with; None for a CPU build or without torch.

    The version of the package does not have it: builds of the Python package index are `2.13.0`, with CUDA.
    """
    found = re.search(r"^cuda\b[^=]*= *'(\d+)", _torch_version(), re.MULTILINE)
    return found and found[1]


def _torch_version() -> str:
    """Return torch/version.py, or nothing without torch, which is not imported: that takes seconds."""
    spec = find_spec("torch")
    folders = (spec.submodule_search_locations if spec else None) or ()
    files = [Path(folder) / "version.py" for folder in folders]
    return files[0].read_text() if files and files[0].exists() else ""


def gpus() -> list[Gpu]:
    """Return the GPUs; raises FileNotFoundError without a driver, NotChecked with its message."""
    command = (PROGRAM, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits")
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise NotChecked(f"{PROGRAM} does not answer") from error
    if ran.returncode != 0:
        lines = (ran.stdout + ran.stderr).strip().splitlines()
        raise NotChecked(lines[0] if lines else f"{PROGRAM} ended with status {ran.returncode}")
    rows = [[part.strip() for part in line.split(",")] for line in ran.stdout.splitlines() if line.strip()]
    return [Gpu(name, driver, int(memory) if memory.isdigit() else 0, errors) for name, driver, memory, errors in rows]


def _required(installation: Installation) -> list[Gpu]:
    """Return the GPUs; raises NotChecked if none is needed or visible."""
    if not _wanted(installation):
        raise NotChecked("the model runs on the CPU")
    try:
        found = gpus()
    except FileNotFoundError as error:
        raise NotChecked("no GPU is visible") from error
    if not found:
        raise NotChecked("no GPU is visible")
    return found


def examine_visible(installation: Installation) -> Finding:
    """Require that the driver lists the GPUs that the settings name."""
    if not _wanted(installation):
        return ok("no GPU is needed: the model runs on the CPU")
    missing = fault if installation.settings.model.device.startswith("cuda") else warning
    try:
        found = gpus()
    except FileNotFoundError:
        return missing(
            "there is no NVIDIA driver here",
            "install the driver; in containers, use the profile `gpu` and the NVIDIA Container Toolkit",
        )
    except NotChecked as error:
        return fault(
            f"the driver answers: {error}",
            "start the container again (`systemctl daemon-reload` takes its GPU away); see `dmesg` for Xid errors",
        )
    number = installation.settings.model.device.partition(":")[2] or "0"
    if int(number) >= len(found):
        return missing(f"{len(found)} GPUs are visible, cuda:{number} is not", "correct PRELIM_DEVICE, or reserve it")
    return ok(", ".join(f"{gpu.name}, {gpu.memory / 1024:.0f} GiB" for gpu in found))


def examine_driver(installation: Installation) -> Finding:
    """Compare the driver with the CUDA version that torch was built with."""
    cuda, driver = _cuda_of_torch(), _required(installation)[0].driver
    if cuda is None:
        return warning(
            f"the driver is {driver}, and the installed torch has no CUDA",
            "install the CUDA build of torch (docs/model.md)",
        )
    oldest = MIN_DRIVERS.get(cuda)
    if oldest is not None and int(driver.partition(".")[0]) < oldest:
        return fault(f"the driver is {driver}, and CUDA {cuda} of torch needs {oldest}", "upgrade the driver")
    return ok(f"the driver {driver} suits CUDA {cuda} of torch")


def examine_memory(installation: Installation) -> Finding:
    """Compare the memory that a worker may use with the weights: of one GPU if the settings name it, else of all."""
    model, used = installation.settings.model, _used(installation)
    limit = math.inf if model.gpu_memory_gib is None else model.gpu_memory_gib * 2**30
    memory = sum(min(gpu.memory << 20, limit) for gpu in used)
    weights = sum(path.stat().st_size for path in installation.settings.checkpoint_directory.glob("*.safetensors"))
    gpus_used = "one GPU" if len(used) == 1 else f"{len(used)} GPUs"
    found = f"{weights / 2**30:.1f} GiB of weights, {memory / 2**30:.0f} GiB of memory of {gpus_used} may be used"
    if weights <= WEIGHTS_SHARE * memory:
        return ok(found)
    if model.quantization != "none":
        return not_checked(f"{found}; quantized to {model.quantization}, their size is known when a worker loads them")
    return fault(
        found,
        "use a larger GPU, PRELIM_DEVICE=auto with several, a higher PRELIM_GPU_MEMORY_GIB, or PRELIM_QUANTIZATION",
    )


def _used(installation: Installation) -> list[Gpu]:
    """Return the GPUs that a worker may use: the one that the settings name, else all; raises NotChecked."""
    device, found = installation.settings.model.device, _required(installation)
    if device.startswith("cuda"):
        number = int(device.partition(":")[2] or 0)
        found = found[number : number + 1]
    if not found or not all(gpu.memory for gpu in found):
        raise NotChecked("the driver does not name the memory of the GPU")
    return found


def examine_errors(installation: Installation) -> Finding:
    """Report uncorrected memory errors since the driver was loaded."""
    found = _required(installation)
    faulty = [gpu for gpu in found if gpu.errors.isdigit() and int(gpu.errors)]
    if faulty:
        return fault(
            f"{faulty[0].name} has {faulty[0].errors} uncorrected memory errors",
            "reset the GPU or restart the machine; replace it if the errors return",
        )
    uncounted = [gpu for gpu in found if not gpu.errors.isdigit()]
    if uncounted:
        return not_checked(f"{uncounted[0].name} counts no memory errors (ECC is off, or it has none)")
    return ok("no uncorrected memory errors since the start of the driver")


def is_loaded_on_cpu(installation: Installation) -> bool:
    """Return whether a worker here would load the weights into the memory of the machine."""
    device = installation.settings.model.device
    return device == "cpu" or (device == "auto" and bool(_torch_version()) and _cuda_of_torch() is None)


CHECKS = (
    Check("gpu", "a model of 80 GB is too slow on the CPU for any report in time", examine_visible),
    Check("gpu_driver", "torch does not find a GPU with a driver that is too old", examine_driver),
    Check("gpu_memory", "a worker whose weights do not fit does not start", examine_memory),
    Check("gpu_errors", "damaged memory changes weights, and with them reports", examine_errors),
)
