"""The versions of the model: which are served, which is the default, and how that changes."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from diagonalflip.errors import (
    ArtifactError,
    ModelConflict,
    ModelNotFound,
    ServerOverloaded,
)
from supervisor import store
from supervisor.front import FrontDoor
from supervisor.store import Artifacts
from worker.models import WANTED
from worker.routes import MODELS, metrics_file

CHOICE = "serving.json"
"""File in the model store: what was chosen, for the next start."""

REMEDY = "export that version again, or delete the file"
NUMBER = "export it with a version number of its own"
POLL_S = 0.002
PATIENCE_S = 30.0
"""For a worker to load and prove a version. One that hangs is killed sooner by its proofs."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What an operator chose.

    Attributes:
        default: Version that answers where none is named.
        previous: The default before it, which a rollback brings back.
        unloaded: Versions of the store that are not served.
    """

    default: str
    previous: str | None = None
    unloaded: tuple[str, ...] = ()


class Models:
    """The versions of a model store, and what workers serve of them.

    Args:
        model_store: Folder of exports.
        sockets: Private folder, where workers read what they are to serve, and archives lie as
            they were checked.
        front: Tells workers of a change.
        trusted_key: Public key that must have signed every version, if any.

    Attributes:
        kept: Whether the choice could be written into the store.
        changed: Called after every change.

    Raises:
        ArtifactError: The default version cannot be served.
    """

    def __init__(
        self, model_store: Path, sockets: Path, front: FrontDoor, trusted_key: Path | None = None
    ) -> None:
        self._store, self._sockets, self._front = model_store, sockets, front
        self._trusted_key = trusted_key
        self.archives.mkdir(exist_ok=True)
        self._revision = 0
        self._changing = threading.Lock()
        self.kept = True
        self.changed: Callable[[], None] = lambda: None
        self._loaded: dict[str, Artifacts] = {}
        folders = self._folders()
        self._choice = _read_choice(model_store / CHOICE, list(folders))
        for version in folders.keys() - set(self._choice.unloaded):
            try:
                self._loaded[version] = self._checked(version)
            except ArtifactError as error:
                if version == self._choice.default:
                    raise
                logger.error("Version %s is not served: %s", version, error)  # noqa: TRY400
        # What a version stands for does not change while this process lives.
        self._digests = {version: each.digest for version, each in self._loaded.items()}
        self._wish(self._choice, self._loaded)

    @property
    def default(self) -> Artifacts:
        """The version that answers where none is named."""
        return self._loaded[self._choice.default]

    @property
    def archives(self) -> Path:
        """Folder of the archives that were checked, by version."""
        return self._sockets / "archives"

    @property
    def loaded(self) -> list[Artifacts]:
        """What every worker serves now."""
        return list(self._loaded.values())

    def document(self) -> dict[str, Any]:
        """All versions of the store, as JSON has them."""
        models = []
        for version, folder in self._folders().items():
            loaded = self._loaded.get(version)
            told: dict[str, Any] = {"version": version, "loaded": loaded is not None}
            try:
                found = loaded or store.check(folder, self._trusted_key)
            except ArtifactError as error:
                told["fault"] = str(error)
            else:
                told |= {"digest": found.digest, "flips": found.flips, "signed": found.signed}
            models.append(told)
        chosen = {"default": self._choice.default, "previous": self._choice.previous}
        return {**chosen, "kept": self.kept, "models": models}

    def load(self, version: str) -> None:
        """Serve a version of the store as well; it is checked here and proven by every worker.

        Raises:
            ModelNotFound: The store has no such version.
            ModelConflict: That version was another model before.
            ArtifactError: It is damaged, or answers wrongly.
            ServerOverloaded: No worker is up.
        """
        with self._changing:
            artifacts = self._checked(version)
            if artifacts.digest != self._digests.setdefault(version, artifacts.digest):
                raise ModelConflict(
                    f"another model as version {version}", "the one served before", NUMBER
                )
            unloaded = tuple(each for each in self._choice.unloaded if each != version)
            choice = replace(self._choice, unloaded=unloaded)
            self._apply(choice, self._loaded | {version: artifacts})

    def unload(self, version: str) -> None:
        """Serve a version no more.

        Raises:
            ModelNotFound: It is not served.
            ModelConflict: It is the default.
            ServerOverloaded: No worker is up.
        """
        with self._changing:
            self._must_serve(version)
            if version == self._choice.default:
                raise ModelConflict(f"{version}, the default", "another", "choose another default")
            previous = None if version == self._choice.previous else self._choice.previous
            unloaded = (*self._choice.unloaded, version)
            rest = {name: each for name, each in self._loaded.items() if name != version}
            self._apply(Choice(self._choice.default, previous, unloaded), rest)

    def make_default(self, version: str) -> None:
        """Have a version answer where none is named. It is loaded and proven already.

        Raises:
            ModelNotFound: It is not served.
            ServerOverloaded: No worker is up.
        """
        with self._changing:
            self._must_serve(version)
            self._switch(version)

    def rollback(self) -> None:
        """Go back to the default before this one.

        Raises:
            ModelConflict: There was none.
            ServerOverloaded: No worker is up.
        """
        with self._changing:
            if self._choice.previous is None:
                raise ModelConflict("no earlier default", "one", "name it: model default VERSION")
            self._switch(self._choice.previous)

    def _switch(self, version: str) -> None:
        if version != self._choice.default:
            choice = replace(self._choice, default=version, previous=self._choice.default)
            self._apply(choice, self._loaded)

    def _apply(self, choice: Choice, loaded: dict[str, Artifacts]) -> None:
        """Have all workers serve these; after a failure all serve what they did."""
        if not self._front.living():
            raise ServerOverloaded("no worker", "one", "send it again later")
        before = self._choice, self._loaded
        # Proofs ask for what is served on both sides of the change.
        self._loaded = {name: each for name, each in loaded.items() if name in before[1]}
        self._wish(choice, loaded)
        if fault := self._fault():
            self._wish(*before)
            self._fault()
            self._loaded = before[1]
            raise ArtifactError(fault, "a version that every worker can serve")
        self._choice, self._loaded = choice, loaded
        self._keep()
        self.changed()

    def _wish(self, choice: Choice, loaded: dict[str, Artifacts]) -> None:
        """Write down what workers are to serve."""
        self._revision += 1
        archives = {version: str(each.archive.resolve()) for version, each in loaded.items()}
        wish = {"revision": self._revision, "default": choice.default, "versions": archives}
        _write(self._sockets / WANTED, json.dumps(wish))

    def _fault(self) -> str:
        """Have workers serve what is written; return why one cannot, once all have tried.

        Who dies meanwhile reads it at its next start.
        """
        self._front.tell(MODELS)
        waiting, deadline = set(self._front.living()), time.monotonic() + PATIENCE_S
        while waiting:
            for number in list(waiting):
                told = self._told(number)
                if told["revision"] == self._revision:
                    if told["fault"]:
                        return str(told["fault"])
                    waiting.discard(number)
            waiting.intersection_update(self._front.living())
            if time.monotonic() > deadline:
                return f"worker {min(waiting)}, silent for {PATIENCE_S:g} s"
            time.sleep(POLL_S)
        return ""

    def _told(self, number: int) -> dict[str, Any]:
        """What a worker says of its versions."""
        try:
            page = json.loads(metrics_file(self._sockets, number).read_bytes())
        except FileNotFoundError:  # a new one
            return {"revision": 0}
        told: dict[str, Any] = page["models"]
        return told

    def _keep(self) -> None:
        """Write the choice into the store, for the next start."""
        try:
            _write(self._store / CHOICE, json.dumps(asdict(self._choice), indent=2) + "\n")
            self.kept = True
        except OSError as error:
            logger.warning("The choice of versions is lost at the next start: %s", error)
            self.kept = False

    def _folders(self) -> dict[str, Path]:
        """Folders of all exports, by version."""
        return {store.version_of(folder): folder for folder in store.exports(self._store)}

    def _checked(self, version: str) -> Artifacts:
        folders = self._folders()
        if version not in folders:
            raise ModelNotFound(f"version {version[:32]}", f"one of {', '.join(folders)}")
        return store.check(folders[version], self._trusted_key, self.archives)

    def _must_serve(self, version: str) -> None:
        if version not in self._loaded:
            raise ModelNotFound(
                f"version {version[:32]}, which is not served",
                f"one of {', '.join(self._loaded)}",
                "load it first",
            )


def _read_choice(path: Path, versions: Sequence[str]) -> Choice:
    """What was chosen before; the first version is the default until another one is chosen.

    Raises:
        ArtifactError: It is of another store: the default is not there.
    """
    choice = Choice(versions[0])
    try:
        kept = json.loads(path.read_bytes())
        choice = Choice(str(kept["default"]), kept["previous"], tuple(kept["unloaded"]))
    except FileNotFoundError:
        return choice
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: {error!r}", "a choice of versions", REMEDY) from error
    if choice.default not in versions:
        raise ArtifactError(
            f"default {choice.default} in {path}", f"one of {', '.join(versions)}", REMEDY
        )
    return choice


def _write(path: Path, content: str) -> None:
    """Writes a file as a whole."""
    new = path.with_suffix(".new")
    new.write_text(content, encoding="utf-8")
    new.replace(path)
