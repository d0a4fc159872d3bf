"""Google's generated message classes, without the clients that are generated beside them.

A generated package's `__init__` imports every client of all its services: two thirds of what this program would load.
"""

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any


def message_module(package: str, name: str) -> Any:
    """The module `types.<name>` of a generated package. Whoever imports the package itself gets it whole."""
    if package not in sys.modules and (spec := find_spec(package)):
        # Its `__init__` is not run. Right as long as no other thread imports the package meanwhile: imports call this.
        sys.modules[package] = module_from_spec(spec)
        try:
            return import_module(f"{package}.types.{name}")
        finally:
            del sys.modules[package]
    return import_module(f"{package}.types.{name}")
