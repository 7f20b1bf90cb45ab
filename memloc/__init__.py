"""See, measure and control what a neural network has memorized.

Written by hand, unlike the rooms beside it: public functions and classes of all rooms, and the rooms themselves, are
found here on first use, so that `import memloc` loads nothing but this file."""
__version__ = "0.1.0"


def __getattr__(name):
    from importlib import import_module

    from memloc.basics import home, symbols

    if not name.startswith("_"):
        if f"memloc.{name}" in symbols(): return import_module(f"memloc.{name}")
        if room := home(name): return getattr(import_module(room), name)
    raise AttributeError(f"memloc has no {name}: dir(memloc) lists what it has")


def __dir__():
    from memloc.basics import symbols

    rooms = [room.removeprefix("memloc.") for room in symbols()]
    names = [name for found in symbols().values() for name in found]
    return sorted({*globals(), *rooms, *(name for name in names if name.isidentifier() and not name.startswith("_"))})
