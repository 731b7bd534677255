"""These tests check hooks as processes: C{/bin/sh}, pipes and process groups."""

from __future__ import annotations

import os
import resource
import signal

import pytest
import pytest_twisted

from llmux.interfaces import HookKind

from .real_hooks import Hooks, descriptors, running_hooks

hooks = running_hooks

# What a script finds.


@pytest_twisted.ensureDeferred
async def test_a_hook_runs_in_the_directory_of_the_configuration(hooks: Hooks) -> None:
    await hooks.run('pwd -P; echo "$PWD"')
    assert hooks.log.lines() == [str(hooks.directory.resolve())] * 2


@pytest_twisted.ensureDeferred
async def test_an_odd_name_of_the_directory_is_no_option_and_is_not_expanded(
    hooks: Hooks,
) -> None:
    """No part of the directory's name is taken for an option, or expanded."""
    hooks.directory = hooks.directory / "-x $(false) 'é\n"
    hooks.directory.mkdir()
    (hooks.directory / "wake.sh").write_text("echo found\n")
    assert (await hooks.run("sh ./wake.sh")).ok
    assert hooks.log.lines() == ["found"]


@pytest_twisted.ensureDeferred
async def test_a_hook_has_our_environment_and_variables_of_its_model(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook has llmux's environment, and variables that say which model it is for."""
    monkeypatch.setenv("OF_OURS", "ours")
    await hooks.start(
        'echo "$LLMUX_MODEL $LLMUX_HOOK $LLMUX_HOST $LLMUX_PORT $LLMUX_TIMEOUT_SECS $OF_OURS"',
        HookKind.SLEEP,
        limit=900.5,
        name='org/é "model" $(date)',
    ).exited
    assert hooks.log.lines() == ['org/é "model" $(date) sleep 127.0.0.1 8001 900.5 ours']


@pytest_twisted.ensureDeferred
async def test_the_input_of_a_hook_is_empty(hooks: Hooks) -> None:
    """The input of a hook is empty even if llmux's own is not."""
    read, write = os.pipe()
    os.write(write, b"ours\n")
    ours = os.dup(0)
    os.dup2(read, 0)
    try:
        assert (await hooks.run("! read line")).ok
    finally:
        os.dup2(ours, 0)
        for fd in (read, write, ours):
            os.close(fd)


@pytest_twisted.ensureDeferred
async def test_a_hook_has_a_session_of_its_own(hooks: Hooks) -> None:
    """Ctrl-C in llmux's terminal is not for hooks, and they have no terminal to stop at."""
    await hooks.run("echo $$; ps -o pgid= -o sid= -o tty= -p $$")
    pid, columns = hooks.log.lines()
    assert columns.split() == [pid, pid, "?"]


@pytest_twisted.ensureDeferred
async def test_a_hook_inherits_no_descriptor_of_ours(hooks: Hooks) -> None:
    """
    A hook has no descriptor of llmux, even if it may be inherited: a server would keep llmux's
    port for hours.
    """
    ours = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(ours, True)
    try:
        await hooks.run("ls -m /proc/$$/fd; true")
    finally:
        os.close(ours)
    assert hooks.log.lines() == ["0, 1, 2"]


@pytest.mark.parametrize("shell", [s for s in ("/bin/sh", "/bin/bash") if os.path.exists(s)])
@pytest_twisted.ensureDeferred
async def test_a_hook_begins_with_no_signal_ignored_or_blocked(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    """
    A hook's C{kill -INT} works, whatever signals llmux was started with. (dash, which is sh on
    many systems, unblocks signals by itself.)
    """
    monkeypatch.setattr("llmux.hooks.runner.SHELL", shell)
    was = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        await hooks.run("grep -E '^Sig(Blk|Ign)' /proc/self/status")
        still = signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, was)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    assert [line.split()[1] for line in hooks.log.lines()] == ["0" * 16] * 2
    assert still is signal.SIG_IGN


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("script", "code", "lines"),
    [
        ("echo one\necho two", 0, ["one", "two"]),
        ("-no-such-program", 127, []),
        ('echo "$# $*"', 0, ["0 "]),
        ("set -e\nfalse\necho never", 1, []),
        ("set -eu; echo a; exit 4; echo b", 4, ["a"]),
        ("trap 'echo bye' EXIT; exit 2", 2, ["bye"]),
        ("cat <<END\na $LLMUX_MODEL\n  'b'\nEND\n", 0, ["a a", "  'b'"]),
        ("cat <<'END'\n$LLMUX_MODEL\nEND", 0, ["$LLMUX_MODEL"]),
        ("f() { return 6; }\nf", 6, []),
        ("# only a comment", 0, []),
        ("exec sh -c 'exit 9'", 9, []),
        ("if true; then", 2, []),
        ("exit 1; 'unbalanced", 2, []),
    ],
)
async def test_a_script_means_what_it_means_to_sh(
    hooks: Hooks, script: str, code: int, lines: list[str]
) -> None:
    """A script means the same as to C{sh -c}."""
    assert (await hooks.run(script)).exit_code == code
    assert hooks.log.lines() == lines


# What cannot be started.


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("script", ["echo \0", "#" + "x" * 200_000])
async def test_a_script_that_no_shell_takes_could_not_be_started(
    hooks: Hooks, script: str
) -> None:
    before = descriptors()
    result = await hooks.run(script)
    assert (result.exit_code, result.timed_out) == (None, False)
    assert result.reason == "could not be started"
    assert result.stderr
    assert descriptors() == before


@pytest_twisted.ensureDeferred
async def test_an_alive_hook_in_a_vanished_directory_does_not_say_no(hooks: Hooks) -> None:
    """The alive hook of a vanished directory must not seem to say no."""
    hooks.directory = hooks.directory / "gone"
    result = await hooks.run("exit 1", HookKind.ALIVE)
    assert result.reason == "could not be started"
    assert not result.says_no
    assert "No such file" in result.stderr and "gone" in result.stderr


@pytest_twisted.ensureDeferred
async def test_directory_is_a_file(hooks: Hooks) -> None:
    hooks.directory = hooks.directory / "file"
    hooks.directory.write_text("")
    assert (await hooks.run("true")).reason == "could not be started"


@pytest_twisted.ensureDeferred
async def test_a_hook_fails_if_no_descriptor_is_left(hooks: Hooks) -> None:
    """If no descriptor is left, a hook fails like any other, and none is lost."""
    before = descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    for spare in range(8):
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + spare, limits[1]))
        try:
            run = hooks.start("true")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert (await run.exited).reason in ("could not be started", "exit status 0")
    await hooks.until(lambda: descriptors() == before)


@pytest_twisted.ensureDeferred
async def test_an_exit_status_that_others_took_is_unknown(hooks: Hooks) -> None:
    """
    Code that waits for all children takes llmux's children too: then nothing is known of a
    hook's exit.
    """
    run = hooks.start("echo $$; until [ -e go ]; do sleep 0.01; done; exit 0")
    await hooks.until(lambda: hooks.log.lines() != [])
    (hooks.directory / "go").touch()
    steal(int(hooks.log.lines()[0]))
    assert (await run.exited).reason == "exit status unknown"


def steal(pid: int) -> None:
    """Wait for a child without a turn of the reactor."""
    os.waitpid(pid, 0)
