"""What PyInstaller needs to know to freeze an app that uses edgerec: it finds the hooks here by itself.

Nothing of it runs on a device. See docs/packaging.md.
"""

from __future__ import annotations

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """Folders of hooks, for the entry point `hook-dirs` of the group `pyinstaller40`."""
    return [str(Path(__file__).parent)]
