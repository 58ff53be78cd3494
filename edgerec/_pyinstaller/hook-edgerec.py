"""PyInstaller: the package's data, and every plugin that is installed where the app is frozen.

The metadata travels too, so that the frozen app discovers its plugins by entry points as the unfrozen one does.
"""

from importlib.metadata import entry_points

from PyInstaller.utils.hooks import collect_data_files, collect_submodules, copy_metadata

_points = entry_points(group="edgerec")

datas = collect_data_files("edgerec")
for _name in sorted({"edgerec", *(point.dist.name for point in _points if point.dist)}):
    datas += copy_metadata(_name)

# no import statement names a plugin
hiddenimports = sorted({*collect_submodules("edgerec_plugins"), *(point.module for point in _points)})
