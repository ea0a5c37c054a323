"""A Python file that the user named, as a module."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from lmkit.errors import PluginError
from lmkit.plugins.reasons import reason


def module_from_file(path: Path) -> ModuleType:
    """Import a Python file that the user named.

    Raises:
        PluginError: there is no such file, or importing it fails.
    """
    if not path.is_file():
        raise PluginError(f"there is no plugin file '{path}'")
    # A name of its own, so that a file called json.py does not stand in for the json module.
    spec = importlib.util.spec_from_file_location(f"lmkit_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise PluginError(f"'{path}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise PluginError(f"'{path}' cannot be imported: {reason(error)}") from error
    return module
