"""One engine for all workers of a test run: the first that needs it starts it, the last that used it ends it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from .board import PATH, Board
from .engine import Engine, new_folder
from .lock import Held, locked

__all__ = ["PATIENCE_S", "private", "running", "shared"]

PATIENCE_S: Final = 20
"""Seconds in which an engine that runs has to answer, on a machine that is busy with others."""
E = TypeVar("E", bound=Engine)


def running(kind: type[E], path: Path = PATH, *, patience_s: float = PATIENCE_S) -> E | None:
    """The engine that ``make services`` started, when it lives and answers."""
    board = Board.read(path)
    if board is None or kind.name not in board.records:
        return None
    engine = kind.attach(board.records[kind.name])
    return engine if engine.wait(patience_s) else None


@contextmanager
def shared(kind: type[E], run: Path, path: Path = PATH) -> Iterator[E]:
    """An engine that others may use too, so it refuses faults: the running one, else one for all that name the same
    folder ``run``."""
    if (found := running(kind, path)) is not None:
        found.shared = True
        yield found
        return
    own = run / f"{kind.name}.json"
    gate = run / f"{kind.name}.gate"
    users = Held(run / f"{kind.name}.users")
    with locked(gate):
        engine = running(kind, own)
        if engine is None:
            if (dead := Board.read(own)) is not None:
                dead.clear(own)
            engine = kind(new_folder())
            try:
                engine.launch()
            except BaseException:
                engine.destroy()
                Board(engine.folder, {}).clear(own)
                raise
            Board.of(engine.folder, [engine]).write(own)
        users.share()
    engine.shared = True
    try:
        yield engine
    finally:
        with locked(gate):
            # The lock goes with a worker that dies, so a dead one is never waited for.
            if users.try_take():
                if (board := Board.read(own)) is not None:
                    board.clear(own)
                users.release()


@contextmanager
def private(kind: type[E]) -> Iterator[E]:
    """An engine for one user alone, who may do anything to it."""
    engine = kind(new_folder())
    try:
        engine.launch()
        yield engine
    finally:
        engine.destroy()
        engine.folder.rmdir()
