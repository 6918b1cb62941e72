"""Send tasks to actors of Ray in bundles of some seconds, and take their answers back."""

from __future__ import annotations

import hashlib
import pickle
import tempfile
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data import Images
from ..models.identity import readable_digest
from ..models.wrapper import EvalModel
from .executors import Answers, Local, WorkerDied
from .parcels import Parcels
from .ray_worker import Raised, Stored, Unreadable
from .timed import WAKE_SECONDS

BUNDLE_SECONDS = 20.0  # of tasks that are sent together
MOST_BUNDLED = 64
IN_FLIGHT = 2  # bundles an actor: one waits, so that no actor does
TRIES = 3  # of a task whose actor dies; Ray's own retries come on top
STORED_BYTES = 2**31  # of models and images in the object store at a time


class ObjectStore(Parcels):
    """Pack tasks; models and images go to Ray's object store, each once, and the oldest of too many go."""

    def __init__(self) -> None:
        super().__init__()
        self._named = dict[str, Any]()  # what the parcel that is packed names
        self._refs = OrderedDict[int, tuple[object, Stored, Any, int]]()

    def parcel(self, task: object) -> Parcel:
        """Return a task to be sent. Raises whatever pickling raises, and for models that must stay here."""
        self._named = {}
        return Parcel(task, self.pack(task), self._named)

    def token(self, value: object) -> Any:
        is_stored = isinstance(value, Images) or id(value) in self._refs
        return self.stored(value) if is_stored else super().token(value)

    def stored(self, value: Any) -> Stored:
        if id(value) not in self._refs:
            self._put(value)
        _, token, ref, _ = self._refs[id(value)]
        self._named[token.key] = ref
        return token

    def _put(self, value: Any) -> None:
        import ray

        content = pickle.dumps(value)
        found = readable_digest(value.module) if isinstance(value, EvalModel) else ""
        token = Stored(hashlib.sha256(content).hexdigest(), found)
        self._refs[id(value)] = value, token, ray.put(content), len(content)
        while sum(size for *_, size in self._refs.values()) > STORED_BYTES and len(self._refs) > 1:
            oldest, _ = self._refs.popitem(last=False)
            self._tokens.pop(oldest, None)


@dataclass(eq=False)
class Parcel:
    """A task as it is sent. stored: what it names in the object store; tries: how often an actor died over
    it."""

    task: Any
    content: bytes
    stored: dict[str, Any]
    tries: int = 0


@dataclass(eq=False)
class Actor:
    """An actor, the machine it is on, how many bundles it has, and whether it was lost and has not answered
    since."""

    handle: Any
    node: str
    load: int = 0
    is_lost: bool = False


@dataclass
class Stage:
    """The tasks of one `map`. replaced: returns another actor for one that died for good, or None."""

    function: Callable[[Any], Any]
    tasks: Iterator[Any]
    actors: list[Actor]
    store: ObjectStore
    replaced: Callable[[Actor], Actor | None]
    _size: float = 1.0  # tasks in the next bundle
    _again: deque[Parcel] = field(default_factory=deque)
    _running: dict[Any, tuple[Actor, list[Parcel]]] = field(default_factory=dict)
    _probes: dict[Any, Actor] = field(default_factory=dict)  # of actors that were lost
    _is_drained: bool = False  # no task is ready to be sent
    _is_kept: bool = False  # to actors that see the folder of the tasks

    def __post_init__(self) -> None:
        for actor in [actor for actor in self.actors if actor.is_lost]:  # in an earlier stage
            self._lost(actor, for_good=False)

    def answers(self, *, retry: bool, idle: Callable[[], None]) -> Answers[Any, Any]:
        """Yield each task with its answer or fault (see `executors.Executor.map`)."""
        import ray

        while True:
            yield from self._fill()
            if not self._running and (self._is_drained or not self._probes):
                return
            while not (done := ray.wait([*self._running, *self._probes], timeout=WAKE_SECONDS)[0]):
                idle()
            for ref in done:
                if ref in self._probes:
                    self._probed(ref)
                else:
                    yield from self._finished(ref, retry)

    def _fill(self) -> Answers[Any, Any]:
        """Send bundles while an actor has room for one; what cannot be sent is answered here."""
        self._is_drained = False
        while not self.actors or self._with_room():
            bundle = list[Parcel]()
            while len(bundle) < int(self._size) and not (bundle and self._again and self._again[0].tries):
                if self._again:
                    bundle.append(self._again.popleft())
                else:
                    task = next(self.tasks, None)
                    if task is None:
                        break
                    if parcel := self._parcel(task):
                        bundle.append(parcel)
                    else:
                        yield from Local().map(self.function, [task])
                if bundle and bundle[-1].tries:  # it may be what kills actors, and goes alone
                    break
            if not bundle:
                self._is_drained = True
                return
            if actor := self._with_room():
                self._send(actor, bundle)
            else:  # none has the folder of these tasks
                yield from Local().map(self.function, [parcel.task for parcel in bundle])

    def _with_room(self) -> Actor | None:
        room = [actor for actor in self.actors if actor.load < IN_FLIGHT and not actor.is_lost]
        return min(room, key=lambda actor: actor.load, default=None)

    def _parcel(self, task: Any) -> Parcel | None:
        """Return a task to be sent, None where it must stay here."""
        if folder := getattr(task, "folder", None):
            self._keep_to(folder)
        if not self.actors or not getattr(task, "portable", True):
            return None
        try:
            return self.store.parcel(task)
        except (Exception, SystemExit):  # of whatever a user's class does when it is pickled
            return None

    def _keep_to(self, folder: Path) -> None:
        """Leave out actors on machines that do not see a folder of this one, once a stage."""
        import ray

        if self._is_kept:
            return
        self._is_kept = True
        there = next(path for path in (folder, *folder.parents) if path.is_dir())
        with tempfile.NamedTemporaryFile(dir=there, prefix=".shared-") as marker:
            path = str(Path(marker.name).resolve())
            seen = [ray.get(actor.handle.sees.remote(path)) for actor in self.actors]
        self.actors = [actor for actor, sees in zip(self.actors, seen, strict=True) if sees]

    def _send(self, actor: Actor, bundle: list[Parcel]) -> None:
        stored = {key: ref for parcel in bundle for key, ref in parcel.stored.items()}
        contents = [parcel.content for parcel in bundle]
        ref = actor.handle.run.remote(self.function, contents, stored, BUNDLE_SECONDS)
        self._running[ref] = actor, bundle
        actor.load += 1

    def _finished(self, ref: Any, retry: bool) -> Answers[Any, Any]:
        """Yield the answers of a bundle; what is not answered is sent again."""
        import ray
        from ray.exceptions import ActorDiedError, RayError, RayTaskError

        actor, bundle = self._running.pop(ref)
        actor.load -= 1
        try:
            answers, seconds = ray.get(ref)
        except RayTaskError:
            raise
        except RayError as error:
            self._lost(actor, for_good=isinstance(error, ActorDiedError))
            yield from self._died(bundle, retry)
            return
        self._size = max(
            1.0, min(self._size + 1, BUNDLE_SECONDS * len(answers) / max(seconds, 1e-9), MOST_BUNDLED)
        )
        self._again.extendleft(reversed(bundle[len(answers) :]))
        for parcel, answer in zip(bundle, answers, strict=False):
            if isinstance(answer, Raised):
                raise answer.error
            if isinstance(answer, Unreadable):
                yield from Local().map(self.function, [parcel.task])
            else:
                yield parcel.task, answer

    def _lost(self, actor: Actor, *, for_good: bool) -> None:
        """Send nothing to an actor until it answers; put another in the place of one that died for good.

        None is put where its machine is gone.
        Raises WorkerDied where no actor is left.
        """
        if actor in self.actors and for_good:
            other = self.replaced(actor)
            self.actors = [*(each for each in self.actors if each is not actor), *([other] if other else [])]
        elif actor in self.actors:
            actor.is_lost = True
            self._probes[actor.handle.about.options(max_task_retries=-1).remote()] = actor
        if not self.actors:
            raise WorkerDied(
                "no machine of the Ray cluster is left; the same command goes on where it stopped"
            )

    def _probed(self, ref: Any) -> None:
        """Use an actor again that was lost and is back, or another in its place."""
        import ray
        from ray.exceptions import RayError

        actor = self._probes.pop(ref)
        try:
            ray.get(ref)
            actor.is_lost = False
        except RayError:  # it does not come back
            self._lost(actor, for_good=True)

    def _died(self, bundle: list[Parcel], retry: bool) -> Answers[Any, Any]:
        """Send the tasks of a bundle again, each alone; yield or raise the fault of one that cannot be."""
        for parcel in bundle:
            parcel.tries += 1
            if parcel.tries < TRIES:
                self._again.append(parcel)
            elif retry:
                yield parcel.task, WorkerDied()
            else:
                raise WorkerDied()
