"""Making steps: in this process or in others of their own, and what is written down of them."""

from __future__ import annotations

import json
import shlex
import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from align.data.shards import is_damaged, parts
from align.errors import AlignError, StageError
from align.progress import WORK_NAME, State, progress_files, work_seconds
from align.records import Json
from align.stages.bodies import Body, collect, idle, in_process
from align.stages.cache import CACHED_KINDS, SOURCES_NAME, fetch, offer, store
from align.stages.commands import Launch, commands, visible_devices
from align.stages.crew import Crew
from align.stages.engine import RESTARTS_NAME
from align.stages.execute import execute
from align.stages.folder import RunFolder
from align.stages.forks import Forks
from align.stages.generating import expected_parts
from align.stages.leases import forget_leases
from align.stages.manifest import (
    Manifest,
    content_of,
    is_intact,
    write_json,
    write_manifest,
    write_result,
)
from align.stages.nodes import Nodes
from align.stages.sampling import scored_groups
from align.stages.steps import SHARDED_KINDS, TRAINING_KINDS, Step

PENDING_NAME = "pending.json"


class Screen(Protocol):
    """What the user sees of a run."""

    def skipped(self, step: Step, manifest: Manifest) -> None: ...

    def started(self, steps: Sequence[Step], argv: Sequence[str]) -> None: ...

    def progress(self, steps: Sequence[Step], state: State | None) -> None: ...

    def say(self, text: str) -> None: ...

    def finished(self, step: Step, manifest: Manifest) -> None: ...

    def failed(self, steps: Sequence[Step]) -> None: ...


@dataclass(frozen=True)
class Maker:
    """What every step of a run is made with."""

    run: RunFolder
    launch: Launch
    screen: Screen
    nodes: Nodes
    crew: Crew
    forks: Forks
    _intact: dict[Path, tuple[tuple[str, int, int], ...]] = field(
        default_factory=dict[Path, tuple[tuple[str, int, int], ...]]
    )
    """Steps whose content was hashed, and what their files looked like then."""

    def make(self, batch: Sequence[Step], keys: Mapping[str, dict[str, Json]]) -> None:
        """Makes steps that are prepared, and finishes them. Raises `StageError` where what they
        read is damaged.
        """
        for step in batch:
            self._verify_inputs(step)
        began = time.monotonic()
        argv: Sequence[str] = ()
        body = in_process(batch[0]) or idle(self.run, batch[0])
        if body is not None:
            self.screen.started(batch, ())
            self._run_here(batch[0], body)
        elif self.nodes.count > 1 and batch[0].kind in TRAINING_KINDS | SHARDED_KINDS:
            self.nodes.announce(tuple(one.name for one in batch))
            argv = self.execute(batch)
            self.nodes.wait_for_followers()
        else:
            alone = replace(self, launch=replace(self.launch, nodes=1, node_rank=0))
            argv = alone.execute(batch)
        seconds = time.monotonic() - began
        works = [work_seconds(self.run.folder(step.name)) for step in batch]
        shared = max(0.0, seconds - sum(works)) / len(batch)
        for step, work in zip(batch, works, strict=True):
            manifest = self._finish(step, keys[step.name], work + shared, work, shlex.join(argv))
            if self.run.recipe.run.cache is not None and step.kind in CACHED_KINDS:
                cache, groups = Path(self.run.recipe.run.cache), scored_groups(self.run, step)
                store(cache, step.kind, manifest, self.run.folder(step.name), groups)
            self.screen.finished(step, manifest)

    def execute(self, batch: Sequence[Step]) -> Sequence[str]:
        """This node's processes for steps of one kind; returns the first one's command line."""
        processes = commands(self.run, batch, self.launch)
        folders = [self.run.folder(step.name) for step in batch]
        self.screen.started(batch, processes[0].argv)

        def show(state: State | None) -> None:
            self.screen.progress(batch, state)

        def check() -> None:
            if self.nodes.count > 1:
                self.nodes.check()

        try:
            if batch[0].kind in SHARDED_KINDS:
                self.crew.work(
                    processes,
                    folders,
                    show,
                    self.screen.say,
                    stay=self._samples_again(batch),
                    still_wanted=check,
                )
            else:
                execute(processes, folders, show, check, self.forks.start)
        except AlignError as error:
            self.screen.failed(batch)
            raise self.nodes.blame(error) from None
        return processes[0].argv

    def prepare(self, step: Step, *, anew: bool) -> dict[str, Json]:
        """Clears what an unfinished attempt with other inputs left; what one with the same inputs
        left is kept. Returns the step's key. `anew`: nothing is taken from `run.cache`.
        """
        folder, key = self.run.folder(step.name), self.run.key(step)
        pending = folder / PENDING_NAME
        if folder.is_dir() and (not pending.is_file() or json.loads(pending.read_text()) != key):
            clear(self.run, step)
        forget_leases(folder)  # of workers that an attempt before this one had
        for path in progress_files(folder):
            path.unlink(missing_ok=True)
        write_json(pending, key)
        for path in parts(folder) if step.kind in SHARDED_KINDS else ():
            if is_damaged(path):
                path.unlink()
                self.screen.say(f"{path} was damaged and is made again")
        for name in (SOURCES_NAME, WORK_NAME):
            (folder / name).unlink(missing_ok=True)
        if self.run.recipe.run.cache is not None and step.kind in CACHED_KINDS and not anew:
            offer(Path(self.run.recipe.run.cache), step.kind, key, folder)
        return key

    def fetch(self, step: Step, key: Mapping[str, Json]) -> bool:
        """Takes the finished step from `run.cache`; False where it is not there."""
        cache = self.run.recipe.run.cache
        if cache is None or step.kind not in CACHED_KINDS:
            return False
        folder = self.run.folder(step.name)
        found = fetch(Path(cache), step.kind, key, folder)
        if found is None:
            return False
        manifest = replace(found, step=step.name, from_cache=True)
        write_manifest(folder, manifest)
        self.screen.finished(step, manifest)
        return True

    def _run_here(self, step: Step, body: Body) -> None:
        try:
            write_result(self.run.folder(step.name), body(self.run, step))
        except (AlignError, OSError):  # of a disk that may be too full for a log
            raise
        except Exception as error:  # a stage's boundary, like the one of a launch module
            log = self.run.out / "logs" / f"{step.name.replace('/', '.')}.log"
            log.parent.mkdir(exist_ok=True)
            log.write_text(traceback.format_exc())
            raise StageError(f"{type(error).__name__}: {error}", log=log) from error

    def _verify_inputs(self, step: Step) -> None:
        names = {name for name in step.inputs.values() if name.startswith("step:")}
        for name in sorted(name.removeprefix("step:") for name in names):
            folder, manifest = self.run.folder(name), self.run.manifest(name)
            if manifest is None or self._intact.get(folder) == _stamp(folder):
                continue
            if not is_intact(folder, manifest.content):
                raise StageError(
                    f"{folder} is damaged: it no longer holds the rows or tensors that it was "
                    f"finished with; restore its files, or make it again (--redo {name})"
                )
            self._intact[folder] = _stamp(folder)

    def _samples_again(self, batch: Sequence[Step]) -> bool:
        """Whether a sampler that stays will be wanted."""
        keep = self.run.recipe.run.keep_engine
        if keep is None:
            keep = not visible_devices()
        if batch[0].kind != "generate" or not keep:
            return False
        steps = self.run.steps()
        later = steps[max(steps.index(step) for step in batch) + 1 :]
        return any(s.kind == "generate" and self.run.manifest(s.name) is None for s in later)

    def _finish(
        self, step: Step, key: dict[str, Json], seconds: float, work: float, command: str
    ) -> Manifest:
        folder = self.run.folder(step.name)
        if step.kind in SHARDED_KINDS:
            wanted = expected_parts(self.run, step)
            if len(parts(folder)) != wanted:
                raise StageError(f"{folder} holds {len(parts(folder))} parts instead of {wanted}")
        result = collect(self.run, step)
        manifest = Manifest(
            step=step.name,
            kind=step.kind,
            key=key,
            content=content_of(folder),
            counts=result.counts,
            metrics=result.metrics,
            seconds=round(seconds, 3),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command,
            work=round(work, 3),
        )
        write_manifest(folder, manifest)
        self._intact[folder] = _stamp(folder)
        (folder / PENDING_NAME).unlink(missing_ok=True)
        forget_leases(folder)
        for name in (SOURCES_NAME, WORK_NAME, RESTARTS_NAME):
            (folder / name).unlink(missing_ok=True)
        return manifest


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes where a file that decides the content does."""
    files = [*folder.glob("*.safetensors"), *parts(folder), *folder.glob("*/part-*.parquet")]
    files += [path for path in folder.glob("*config.json") if path.is_file()]
    found = [(str(path), path.stat()) for path in sorted(files)]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


def clear(run: RunFolder, step: Step) -> None:
    """Deletes the step's own files, but not the steps whose folders lie inside its folder."""
    folder = run.folder(step.name)
    inner = {
        run.folder(other.name) for other in run.steps() if other.name.startswith(f"{step.name}/")
    }
    for child in folder.iterdir() if folder.is_dir() else ():
        if child in inner or any(child in one.parents for one in inner):
            continue
        if child.is_dir():
            shutil.rmtree(child)
        else:
            child.unlink()
