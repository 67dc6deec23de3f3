"""An operator's choice of versions, kept in the model store for the next start."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from diagonalflip.errors import ArtifactError, SettingError
from diagonalflip.server.models import store

CHOICE = "serving.json"
"""File in the model store."""


@dataclass(frozen=True)
class Choice:
    """An operator's choice.

    Attributes:
        default: The version that answers requests that name none.
        previous: The default before it, to which a rollback returns, once.
        unloaded: Versions of the store that are not served.
        canary: The version that answers some of these requests instead, if any.
        percent: Its share of them.
    """

    default: str
    previous: str | None = None
    unloaded: tuple[str, ...] = ()
    canary: str | None = None
    percent: int = 0


def read_choice(model_store: Path, versions: Sequence[str], default: str = "") -> Choice:
    """Return the operator's choice; without one, the first version is the default.

    Args:
        model_store: Folder of exports.
        versions: All of its versions.
        default: Replaces the chosen default, unless it is empty.

    Raises:
        ArtifactError: The choice cannot be read, or its default is not in the store.
        SettingError: ``default`` is not in the store.
    """
    path, choice = model_store / CHOICE, Choice(versions[0])
    try:
        kept = orjson.loads(store.read(path))
        percent = range(101).index(kept.pop("percent", 0))
        unloaded = tuple(map(str, kept.pop("unloaded")))
        # People may write 2.0 as a number.
        names = {name: each and str(each) for name, each in kept.items()}
        choice = Choice(**names, unloaded=unloaded, percent=percent)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path}: {error!r}", "a choice of versions", "move the file away"
        ) from error
    known = f"one of {', '.join(versions)}"
    if default and default not in versions:
        raise SettingError(f"FLIP_DEFAULT_VERSION={default} in the environment", known)
    if default not in {"", choice.default}:
        previous = choice.default if choice.default in versions else None
        return Choice(default, previous, choice.unloaded)
    if choice.default not in versions:
        remedy = "export that version again, or set FLIP_DEFAULT_VERSION"
        raise ArtifactError(f"default {choice.default} in {path}", known, remedy)
    return choice


def write_choice(model_store: Path, choice: Choice) -> None:
    """Write a choice; it replaces the one before atomically."""
    path = model_store / CHOICE
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        file.write(orjson.dumps(choice, option=options))
        file.flush()
        os.fsync(file.fileno())  # or the renamed file may be empty after a power cut
    new.replace(path)
