"""The versions of the model: which are served, which is the default, and changes of both."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from diagonalflip.errors import ArtifactError, ModelConflict, ModelNotFound, SettingError
from diagonalflip.server.models import store
from diagonalflip.server.models.choice import Choice, read_choice, write_choice
from diagonalflip.server.models.desired import Desired
from diagonalflip.server.models.store import Artifacts

logger = logging.getLogger(__name__)


class Models:
    """The versions of a model store, and those that workers serve.

    Either all workers make a change, or none does and it raises an error: ModelNotFound (there is
    no such version), ModelConflict (its state does not allow it), ArtifactError (it is damaged, or
    answers wrongly) or ServerOverloaded (no worker is up).

    Args:
        model_store: Folder of exports.
        apply: Has all workers serve other versions; raises an error if they cannot.
        default: The default version at the start; empty takes the last choice.
        trusted_key: Public key that must have signed every version, if any.

    Attributes:
        kept: Whether the next start takes the choice over.
        desired: What every worker serves now.
        changed: Called after every change, if set.

    Raises:
        ArtifactError: The default version cannot be served.
    """

    def __init__(
        self,
        model_store: Path,
        apply: Callable[[Desired], Awaitable[None]],
        *,
        default: str = "",
        trusted_key: Path | None = None,
    ) -> None:
        self._store, self._trusted_key, self._given = model_store, trusted_key, default
        self._apply_to_workers = apply
        self._changing = asyncio.Lock()
        self.kept = True
        self.changed: Callable[[], Awaitable[None]] | None = None
        # While this process runs, a version that was served may not get other files.
        self._files: dict[str, Mapping[str, bytes]] = {}
        folders = store.folders(model_store)
        choice = read_choice(model_store, list(folders), default)
        loaded: dict[str, Artifacts] = {}
        for version in folders:
            if version in choice.unloaded and version != choice.default:
                continue
            try:
                loaded[version] = self._checked(version)
            except ArtifactError as error:
                if version == choice.default:
                    raise
                logger.error("Version %s is not served: %s", version, error)  # noqa: TRY400
        self._serve(Desired(loaded, choice))

    @property
    def default(self) -> Artifacts:
        """The version that answers requests that name none."""
        return self.desired.versions[self.desired.choice.default]

    @property
    def loaded(self) -> list[Artifacts]:
        """Versions that every worker serves now."""
        return list(self.desired.versions.values())

    def document(self) -> dict[str, Any]:
        """Return all versions of the store, for JSON."""
        models, desired = [], self.desired
        folders = {version: [each.folder] for version, each in desired.versions.items()}
        with contextlib.suppress(ArtifactError):  # the store may be gone
            folders |= store.folders(self._store)
        for version, places in folders.items():
            loaded = desired.versions.get(version)
            model: dict[str, Any] = {"version": version, "loaded": loaded is not None}
            try:
                folder = store.only_one(version, places)
                found = loaded or store.check(folder, self._trusted_key)
            except (ArtifactError, SettingError) as error:
                model["fault"] = str(error)
            else:
                model |= {"digest": found.digest, "flips": found.flips, "signed": found.signed}
            models.append(model)
        chosen = asdict(desired.choice)
        del chosen["unloaded"]
        return {**chosen, "kept": self.kept, "models": models}

    def leave_out(self, faults: Mapping[str, str]) -> bool:
        """Stop serving versions that workers cannot load; return False if that does not help.

        That is so if there are none, or if the default is among them.
        """
        desired = self.desired
        if not faults or desired.choice.default in faults:
            return False
        for version, fault in faults.items():
            logger.error("Not served: %s", fault)
            self._files.pop(version, None)  # it may be exported again
        rest = {name: each for name, each in desired.versions.items() if name not in faults}
        self._serve(Desired(rest, desired.choice))
        return True

    async def load(self, version: str) -> None:
        """Serve a further version; it is checked here and by every worker."""
        async with self._changing:
            found = await asyncio.to_thread(self._checked, version)
            versions = self.desired.versions | {version: found}
            unloaded = tuple(each for each in self.desired.choice.unloaded if each != version)
            await self._apply(replace(self.desired.choice, unloaded=unloaded), versions)

    async def unload(self, version: str) -> None:
        """Stop serving a version."""
        async with self._changing:
            self._must_serve(version)
            choice = self.desired.choice
            if version == choice.default:
                got = f"version {version} is the default"
                raise ModelConflict(got, "another version", "choose another default first")
            rest = {name: each for name, each in self.desired.versions.items() if name != version}
            previous = choice.previous if choice.previous != version else None
            unloaded = (*choice.unloaded, version)
            await self._apply(replace(choice, previous=previous, unloaded=unloaded), rest)

    async def make_default(self, version: str) -> None:
        """Have a loaded version answer requests that name none."""
        async with self._changing:
            self._must_serve(version)
            choice = self.desired.choice
            if version != choice.default:
                await self._apply(Choice(version, choice.default, choice.unloaded))

    async def make_canary(self, version: str, percent: int) -> None:
        """Have a loaded version answer a share of the requests that name none; 0 ends that."""
        async with self._changing:
            self._must_serve(version)
            choice = self.desired.choice
            if version == choice.default:
                raise ModelConflict(f"version {version} is the default", "another version")
            canary = version if percent else None
            await self._apply(replace(choice, canary=canary, percent=percent))

    async def rollback(self) -> None:
        """Undo the last change: end a canary; without one, return to the previous default.

        There is no previous default then, so a repetition changes nothing.
        """
        async with self._changing:
            before = self.desired.choice
            choice = replace(before, previous=None, canary=None, percent=0)
            if before.canary is None and before.previous is not None:
                self._must_serve(before.previous)
                choice = replace(choice, default=before.previous)
            if choice != before:
                await self._apply(choice)

    async def _apply(self, choice: Choice, versions: dict[str, Artifacts] | None = None) -> None:
        """Have all workers serve these; if that fails, they serve the same as before."""
        desired = Desired(versions or self.desired.versions, choice)
        await self._apply_to_workers(desired)
        self._serve(desired)
        try:
            await asyncio.to_thread(write_choice, self._store, desired.choice)
            self.kept = self._given in {"", desired.choice.default}
        except OSError as error:
            logger.warning("The choice of versions is lost at the next start: %s", error)
            self.kept = False
        if self.changed is not None:
            await self.changed()

    def _serve(self, desired: Desired) -> None:
        """Note what all workers serve now."""
        self.desired = desired
        self._files |= {version: each.files for version, each in desired.versions.items()}

    def _checked(self, version: str) -> Artifacts:
        """Check and return a version of the store."""
        found = store.load(self._store, version, self._trusted_key)
        if found.files != self._files.get(version, found.files):
            got = f"version {version} is another model than before"
            remedy = "export it with a version number of its own"
            raise ModelConflict(got, "the same one", remedy)
        return found

    def _must_serve(self, version: str) -> None:
        if version not in self.desired.versions:
            served = f"one of {', '.join(self.desired.versions)}"
            raise ModelNotFound(f"version {version[:32]} is not served", served, "load it first")
