"""PyInstaller: onnxruntime's libraries, without the one import in its `__init__` that would bring PyTorch along.

`onnxruntime.print_debug_info` alone uses it, and only where `cpuinfo` and `py3nvml` are installed.
"""

from PyInstaller.utils.hooks import collect_dynamic_libs

binaries = collect_dynamic_libs("onnxruntime")
excludedimports = ["onnxruntime.transformers.machine_info"]
