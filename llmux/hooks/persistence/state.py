"""
This module keeps on disk what llmux must know from one start to the next.

The state directory has one directory for each model, C{models/NAME}, which scripts know as
C{LLMUX_STATE}.  While a model wakes, llmux keeps a note in that directory.  If this llmux is
killed (C{kill -9}, out of memory), the next one knows of the wake that was not finished.

Nothing is written with fsync, because the files need to survive the end of a process at any
time, but not the end of the machine: after a boot no earlier process is left.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import signal
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from urllib.parse import quote

import msgspec
from msgspec import Struct
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from llmux.config import Config, ConfigError
from llmux.hooks.persistence.process_table import boot_id, is_running, started

__all__ = [
    "NOT_DECODED",
    "SERVER_RECORD",
    "StateDirectory",
    "WakeNote",
    "end_group",
    "prepare_state",
    "state_path",
]

NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""A file that raises one of these in msgspec is not what llmux has written there."""

_NOTE = ".wake"
"""The note has this name in a model's directory; C{rm "$LLMUX_STATE"/*} does not remove it."""

_PLACE = ".place"
"""
This file, in the same directory, has the place in which a model with several places is awake.
"""

SERVER_RECORD = ".server"
"""This file, in the same directory, says which server C{serve} has started."""

_NOTE_BYTES = 512
"""
Each note is padded to this many bytes, more than a note needs, so that it covers the one
before; a note of blanks means that there is none. (An empty file is one whose writer was
killed.)
"""

_LONGEST_NAME = 200
"""A file's name may have this many bytes; file systems allow 255."""

_LOOK = 0.05
"""So many seconds pass between two looks at a process group that was sent TERM."""

_log = Logger()


def state_path(config: Config, environ: Mapping[str, str] = os.environ, home: str = "~") -> str:
    """
    Return the path of a configuration's state directory: C{state_dir} of the file, else
    C{$STATE_DIRECTORY} (set by systemd), else C{$XDG_STATE_HOME/llmux/NAME}, else
    C{~/.local/state/llmux/NAME}.  NAME stands for the real path of the configuration file, so
    that two configurations never share a directory.

    @param home: the home directory of the user that llmux runs as.
    """
    if config.state_dir is not None:
        return os.path.join(config.directory, os.path.expanduser(config.state_dir))
    of_the_service = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if of_the_service:
        return of_the_service
    of_states = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(of_states):
        of_states = os.path.join(os.path.expanduser(home), ".local", "state")
    file = os.path.realpath(os.path.join(config.directory, os.path.basename(config.file)))
    name = hashlib.sha256(os.fsencode(file)).hexdigest()[:12]
    return os.path.join(of_states, "llmux", name)


def prepare_state(config: Config, owner: tuple[int, int] | None = None) -> Config:
    """
    Make the state directory of a daemon.

    @param owner: the user and the group that the daemon will run as (C{twistd --uid}); None for
        those of this process.
    @return: the configuration with the directory's path in C{state_dir}.
    @raise ConfigError: the directory cannot be made, or must not be used.
    """
    home = "~" if owner is None else pwd.getpwuid(owner[0]).pw_dir
    path = state_path(config, home=home)
    try:
        if owner is not None and path.startswith(os.path.join(home, "")):
            # As root, this process could make a home directory that does not exist; this must
            # raise instead.
            os.stat(home)
        StateDirectory(path).create(owner)
    except OSError as e:
        raise ConfigError(
            config.file,
            "state_dir",
            f"{path} cannot be used: {_reason(e)}",
            "name a directory that llmux may make, or that belongs to its user",
        ) from None
    return msgspec.structs.replace(config, state_dir=path)


class WakeNote(Struct, frozen=True):
    """
    A note says that a wake has begun, and that its end is not known yet.

    @ivar group: the process group of the wake hook; 0 if the hook has not been started yet.
    @ivar group_started: when the hook's shell started, in ticks since boot (field 22 of
        C{/proc/PID/stat}).  Together with C{boot} this tells the shell from a later process
        with the same number.
    @ivar llmux: the process that runs the hook.
    @ivar llmux_started: when that process started, in ticks since boot.
    @ivar boot: the id of the system's boot.
    """

    group: int
    group_started: int | None
    llmux: int
    llmux_started: int | None
    boot: str

    @property
    def llmux_is_gone(self) -> bool:
        """Tell whether the process that has left this note has ended."""
        return self.boot != boot_id() or not is_running(self.llmux, self.llmux_started)

    @property
    def hook_is_gone(self) -> bool:
        """Tell whether the shell of the wake hook has ended."""
        if not self.group:
            return True
        return self.boot != boot_id() or not is_running(self.group, self.group_started)


_UNREADABLE = WakeNote(0, None, 0, None, "")
"""
This note stands for one that cannot be understood, because its writer was killed while it
wrote.
"""


class StateDirectory:
    """
    This is the state directory of one configuration.

    @ivar path: the absolute path of the directory.
    @ivar models: the path of the directory that holds the models' own directories.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self.models = os.path.join(self.path, "models")
        self._notes_fail = False
        self._paths: dict[str, str] = {}

    def create(self, owner: tuple[int, int] | None = None) -> None:
        """
        Make the directory, with mode 0700, unless it exists.

        @param owner: the user and the group that the directory is to belong to; None for those
            of this process.
        @raise OSError: the directory cannot be made or used, belongs to another user, or may be
            written by every user.
        """
        user = os.geteuid() if owner is None else owner[0]
        _make_directories(self.path, owner)
        # systemd's DynamicUser= has root make a link to the directory.
        link = os.lstat(self.path)
        if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, user):
            raise OSError("it is a link of another user")
        found = os.stat(self.path)
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError("it is not a directory")
        if found.st_uid != user:
            raise PermissionError("it belongs to another user")
        if found.st_mode & stat.S_IWOTH:
            raise PermissionError("every user may write to it")
        with _as_user(owner):
            if not os.access(self.path, os.W_OK | os.X_OK, effective_ids=True):
                raise PermissionError("its user may not write to it")

    def model_directory(self, model: str) -> str:
        """
        Return the path of a model's own directory, which is made if it does not exist.

        @raise OSError: the directory cannot be made, is a link, or belongs to another user.
        """
        path = self.path_of(model)
        try:
            _check_private(path)
        except FileNotFoundError:
            self.create()
            _make_private(os.path.dirname(path))
            _make_private(path)
        return path

    def note_wake(self, model: str, group: int = 0) -> None:
        """
        Note that a wake hook of this model runs in this process group or, if C{group} is 0,
        that the hook is about to be started.

        An error is only logged, once, because the note is of use only to a start after C{kill
        -9}.
        """
        us = os.getpid()
        note = WakeNote(group, started(group) if group else None, us, _own_start(us), boot_id())
        self._write_note(model, msgspec.json.encode(note), os.O_CREAT)

    def forget_wake(self, model: str) -> None:
        """Remove the note of this model's wake, because the result of the wake is known."""
        self._write_note(model, b"")

    def _write_note(self, model: str, text: bytes, create: int = 0) -> None:
        """
        Write over the note that exists.  In this way the three writes of a wake take 44 us
        together; making a file, truncating it and removing it took 296 us (ext4).
        """
        flags = os.O_WRONLY | create | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(self._note(model), flags, 0o600)
            try:
                os.write(fd, text.ljust(_NOTE_BYTES))
            finally:
                os.close(fd)
        except OSError as e:
            if create or not isinstance(e, FileNotFoundError):
                self._note_failed(e)
        else:
            self._notes_fail = False

    def interrupted_wakes(self, models: Iterable[str]) -> dict[str, WakeNote]:
        """Return the notes that an llmux which has ended has left, by the names of models."""
        found = {}
        for model in models:
            note = self._read_note(model)
            if note is not None and note.llmux_is_gone:
                found[model] = note
        return found

    def note_place(self, model: str, needs: str) -> None:
        """
        Note in which place a model wakes.  The place is given by what the model needs there, as
        hooks are told, because the order of places in a configuration may change. "" means that
        the model sleeps.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            path = os.path.join(self.model_directory(model), _PLACE)
            with open(os.open(path, flags, 0o600), "w") as file:
                file.write(needs)
        except OSError as e:
            self._note_failed(e)

    def noted_place(self, model: str) -> str:
        """
        Return what the model needs in the place where it woke last; "" if that is not known.
        """
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with open(os.open(os.path.join(self.path_of(model), _PLACE), flags), "rb") as file:
                return file.read(65536).decode(errors="replace")
        except OSError:
            return ""

    def _read_note(self, model: str) -> WakeNote | None:
        try:
            fd = os.open(self._note(model), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            text = os.read(fd, 4096)
            if text.isspace():
                return None
            return msgspec.json.decode(text, type=WakeNote)
        except (OSError, *NOT_DECODED):
            return _UNREADABLE
        finally:
            os.close(fd)

    def _note(self, model: str) -> str:
        return os.path.join(self.path_of(model), _NOTE)

    def _note_failed(self, error: OSError) -> None:
        if not self._notes_fail:
            self._notes_fail = True
            _log.warn(
                "no note of wakes can be kept in {path}: {error}; after a kill -9 the next "
                "start may not know that a model was being woken",
                event="wake_not_noted",
                path=self.path,
                error=_reason(error),
            )

    def having(self, file: str) -> list[str]:
        """Return the directories under L{models} that have a file of this name, sorted."""
        try:
            return sorted(
                entry.path
                for entry in os.scandir(self.models)
                if os.path.lexists(os.path.join(entry.path, file))
            )
        except OSError:
            return []

    def path_of(self, model: str) -> str:
        """Return the path of a model's own directory, which need not exist."""
        path = self._paths.get(model)
        if path is None:
            path = self._paths[model] = os.path.join(self.models, _file_name(model))
        return path


async def end_group(
    note: WakeNote,
    clock: IReactorTime,
    grace: float,
    signal_group: Callable[[int, int], None] = os.killpg,
) -> None:
    """
    End what is left of a wake hook that an earlier llmux has started: send TERM to its process
    group, and KILL if the group still exists after C{grace} seconds.

    If the hook's shell has gone, nothing is done, because then its group cannot be told from
    another one with the same number.  What the hook has left in the background must be ended by
    the model's C{sleep} hook.

    @param grace: seconds from TERM to KILL.
    @param signal_group: C{os.killpg}, or a replacement for tests.
    """
    if note.hook_is_gone:
        return
    try:
        signal_group(note.group, signal.SIGTERM)
        until = clock.seconds() + grace
        while clock.seconds() < until:
            await deferLater(clock, _LOOK)
            signal_group(note.group, 0)
        signal_group(note.group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        # The group has gone, or belongs to another user now.
        return


def _file_name(model: str) -> str:
    """
    Return a file's name for a model, a different one for each model.  A model's name cannot be
    used as it is, since it may hold slashes, or be C{..}.
    """
    name = quote(model, safe="", errors="surrogatepass")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > _LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        name = f"{name[:100]}%{digest}"
    return name


def _make_directories(path: str, owner: tuple[int, int] | None, mode: int = 0o700) -> None:
    if os.path.lexists(path):
        return
    # The directories above get the mode that the user's umask allows.
    _make_directories(os.path.dirname(path), owner, 0o777)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        # Another llmux has made the directory in the meantime.
        return
    if owner is not None:
        os.chown(path, *owner)


@contextmanager
def _as_user(owner: tuple[int, int] | None) -> Iterator[None]:
    if owner is None:
        yield
        return
    before = os.geteuid(), os.getegid()
    os.setegid(owner[1])
    os.seteuid(owner[0])
    try:
        yield
    finally:
        os.seteuid(before[0])
        os.setegid(before[1])


def _make_private(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        _check_private(path)


def _check_private(path: str) -> None:
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{path} is not a directory of llmux's own")
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user")


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


@cache
def _own_start(pid: int) -> int | None:
    """
    Return the time when this process started, in ticks since boot, which is read only once.
    """
    return started(pid)
