"""The versions of the model: which are served, which is the default, and how that changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from diagonalflip.errors import ArtifactError, ModelConflict, ModelNotFound
from diagonalflip.server.models import store
from diagonalflip.server.models.choice import Choice, read_choice, write_choice
from diagonalflip.server.models.desired import Desired
from diagonalflip.server.models.store import Artifacts

NUMBER = "export it with a version number of its own"
logger = logging.getLogger(__name__)


class Models:
    """The versions of a model store, and what workers serve of them.

    Args:
        model_store: Folder of exports.
        apply: Has all workers serve other versions; returns why they cannot.
        default: The default version at the start; empty takes what was chosen last.
        trusted_key: Public key that must have signed every version, if any.

    Attributes:
        kept: Whether the choice could be written into the store.
        desired: What every worker serves now.
        changed: Called after every change.

    Raises:
        ArtifactError: The default version cannot be served.
    """

    def __init__(
        self,
        model_store: Path,
        apply: Callable[[Desired], Awaitable[str]],
        *,
        default: str = "",
        trusted_key: Path | None = None,
    ) -> None:
        self._store, self._trusted_key = model_store, trusted_key
        self._apply_to_workers = apply
        self._changing = asyncio.Lock()
        self.kept = True
        self._loaded: dict[str, Artifacts] = {}
        # A version that was served stands for one model while this process lives.
        self._digests: dict[str, str] = {}
        folders = store.folders(model_store)
        self.changed: Callable[[], Awaitable[None]] = _nothing
        self._choice = read_choice(model_store, list(folders), default)
        for version in folders.keys() - set(self._choice.unloaded):
            try:
                self._loaded[version] = self._checked(version)
            except ArtifactError as error:
                if version == self._choice.default:
                    raise
                logger.error("Version %s is not served: %s", version, error)  # noqa: TRY400
        self._serve(self._choice, self._loaded)

    @property
    def default(self) -> Artifacts:
        """The version that answers where none is named."""
        return self._loaded[self._choice.default]

    @property
    def loaded(self) -> list[Artifacts]:
        """Versions that every worker serves now."""
        return list(self._loaded.values())

    def document(self) -> dict[str, Any]:
        """All versions of the store, as JSON has them."""
        models = []
        for version, folders in store.folders(self._store).items():
            loaded = self._loaded.get(version)
            told: dict[str, Any] = {"version": version, "loaded": loaded is not None}
            try:
                folder = store.only_one(version, folders)
                found = loaded or store.check(folder, self._trusted_key)
            except ArtifactError as error:
                told["fault"] = str(error)
            else:
                told |= {"digest": found.digest, "flips": found.flips, "signed": found.signed}
            models.append(told)
        chosen = asdict(self._choice)
        del chosen["unloaded"]
        return {**chosen, "kept": self.kept, "models": models}

    async def load(self, version: str) -> None:
        """Serve a version of the store as well; it is checked here and by every worker.

        Raises:
            ModelNotFound: The store has no such version.
            ModelConflict: That version was another model before.
            ArtifactError: It is damaged, or answers wrongly.
            ServerOverloaded: No worker is up.
        """
        async with self._changing:
            artifacts = self._checked(version)
            unloaded = tuple(each for each in self._choice.unloaded if each != version)
            choice = replace(self._choice, unloaded=unloaded)
            await self._apply(choice, self._loaded | {version: artifacts})

    async def unload(self, version: str) -> None:
        """Serve a version no more.

        Raises:
            ModelNotFound: It is not served.
            ModelConflict: It is the default.
            ServerOverloaded: No worker is up.
        """
        async with self._changing:
            self._must_serve(version)
            if version == self._choice.default:
                raise ModelConflict(
                    f"version {version} is the default",
                    "another version",
                    "choose another default first",
                )
            previous = None if version == self._choice.previous else self._choice.previous
            unloaded = (*self._choice.unloaded, version)
            rest = {name: each for name, each in self._loaded.items() if name != version}
            choice = Choice(self._choice.default, previous, unloaded)
            if self._choice.canary != version:
                choice = replace(choice, canary=self._choice.canary, percent=self._choice.percent)
            await self._apply(choice, rest)

    async def make_default(self, version: str) -> None:
        """Have a version answer where none is named. It is loaded and checked already.

        Raises:
            ModelNotFound: It is not served.
            ServerOverloaded: No worker is up.
        """
        async with self._changing:
            self._must_serve(version)
            await self._switch(version)

    async def make_canary(self, version: str, percent: int) -> None:
        """Have a version answer a share of the requests that name none; a share of 0 ends it.

        Raises:
            ModelNotFound: It is not served.
            ModelConflict: It is the default.
            ServerOverloaded: No worker is up.
        """
        async with self._changing:
            self._must_serve(version)
            if version == self._choice.default:
                raise ModelConflict(f"version {version} is the default", "another version")
            canary = version if percent else None
            await self._apply(replace(self._choice, canary=canary, percent=percent), self._loaded)

    async def rollback(self) -> None:
        """Undo the last change, once: end a canary; without one, go back to the default before.

        Nothing is left to go back to then, so that a repetition changes nothing.

        Raises:
            ServerOverloaded: No worker is up.
        """
        async with self._changing:
            choice = replace(self._choice, previous=None, canary=None, percent=0)
            if self._choice.canary is None and self._choice.previous is not None:
                choice = replace(choice, default=self._choice.previous)
            if choice != self._choice:
                await self._apply(choice, self._loaded)

    async def _switch(self, version: str) -> None:
        if version != self._choice.default:
            choice = Choice(version, self._choice.default, self._choice.unloaded)
            await self._apply(choice, self._loaded)

    async def _apply(self, choice: Choice, loaded: dict[str, Artifacts]) -> None:
        """Have all workers serve these; after a failure all serve what they did."""
        if fault := await self._apply_to_workers(Desired(loaded, asdict(choice))):
            raise ArtifactError(fault, "a version that every worker can serve")
        self._serve(choice, loaded)
        self._keep()
        await self.changed()

    def _serve(self, choice: Choice, loaded: dict[str, Artifacts]) -> None:
        """Take what all workers serve now."""
        self._choice, self._loaded = choice, loaded
        self.desired = Desired(loaded, asdict(choice))
        self._digests |= {version: each.digest for version, each in loaded.items()}

    def _keep(self) -> None:
        """Write the choice into the store, for the next start."""
        try:
            write_choice(self._store, self._choice)
            self.kept = True
        except OSError as error:
            logger.warning("The choice of versions is lost at the next start: %s", error)
            self.kept = False

    def _checked(self, version: str) -> Artifacts:
        """Return a version of the store, checked."""
        folders = store.folders(self._store)
        if version not in folders:
            raise ModelNotFound(f"version {version[:32]}", f"one of {', '.join(folders)}")
        folder = store.only_one(version, folders[version])
        found = store.check(folder, self._trusted_key)
        if found.digest != self._digests.get(version, found.digest):
            raise ModelConflict(
                f"version {version} is another model than before", "the same one", NUMBER
            )
        return found

    def _must_serve(self, version: str) -> None:
        if version not in self._loaded:
            raise ModelNotFound(
                f"version {version[:32]} is not served",
                f"one of {', '.join(self._loaded)}",
                "load it first",
            )


async def _nothing() -> None:
    """Nobody wants to know."""
