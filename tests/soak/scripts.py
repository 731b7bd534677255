"""This module writes the hooks of the soak, which fail as files tell them."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.daemon import ROOT

__all__ = ["FAULTS", "hooks", "write_scripts"]

FAULTS = {
    "wake": "fail fail-after slow hang hang-after ignore flood kill kill-after children long",
    "sleep": "fail fail-after slow hang hang-after ignore flood kill kill-after children",
    "alive": "hang unknown kill slow flood",
}
"""
A hook can be told these faults: before its work, or after it.  C{alive} never lies: if a model
served while C{alive} said no, nobody could know that it holds the GPU's memory.
"""

_START = """\
cd "{directory}"
ulimit -S -f unlimited
hook=$LLMUX_HOOK; model=$LLMUX_MODEL
say() {{ echo "$(date +%s%N) $1 $model $$" >> truth; }}
echo $$ > "running/$model.$hook"
fault=$(cat "faults/$model.$hook" 2>/dev/null); rm -f "faults/$model.$hook"
say "$hook-begin"
[ -z "$fault" ] || say "fault-$hook-$fault"
trouble() {{
    case $fault$1 in
        fail|fail-after-after) echo "told to fail" >&2; exit 3 ;;
        slow) sleep 1 ;;
        hang|hang-after-after) sleep 1000 ;;
        ignore) trap "" TERM; sleep 1000; sleep 1000 ;;
        flood) yes "the hook has a lot to say, and says it in short lines" | head -c 400000 ;;
        kill|kill-after-after) kill -9 $$ ;;
        children) sleep 777 & ;;
        unknown) exit 75 ;;
    esac
}}
trouble ""
"""

_END = """
trouble -after
say "$hook-end"
"""

_WAKE_PROCESS = """
pid=$(cat "$model.pid" 2>/dev/null)
if [ -z "$pid" ] || ! kill -0 "$pid" 2>/dev/null; then
    [ "$fault" != long ] || echo 3 > "$model.load"
    # The server's process writes its number itself: whoever ends this hook, sleep finds it.
    setsid sh -c 'echo $$ > "$0.pid"; cd "{root}"; exec "{python}" -m tests.soak.server "$@"' \\
        $model $model $LLMUX_PORT "{directory}" process </dev/null >> "$model.out" 2>&1 &
fi
"""

_SLEEP_PROCESS = """
pid=$(cat "$model.pid" 2>/dev/null)
rm -f "$model.load"
if [ -n "$pid" ] && kill -TERM "$pid" 2>/dev/null; then
    tries=0
    while kill -0 "$pid" 2>/dev/null; do
        # Gone, and only not yet reaped.
        case $(cat /proc/$pid/stat 2>/dev/null) in *") Z "*) break ;; esac
        tries=$((tries + 1))
        [ $tries != 100 ] || kill -9 "$pid"
        sleep 0.03
    done
    rm -f "$model.pid"
fi
"""

_CURL = "curl -s -f -o /dev/null -m 4 http://127.0.0.1:$LLMUX_PORT/"
_WAKE_RESIDENT = f"\n{_CURL}wake -X POST || exit 5\n"
_SLEEP_RESIDENT = f"\n{_CURL}sleep -X POST || exit 6\n"
_ALIVE = f"\n{_CURL}health\nstatus=$?\n"


def write_scripts(directory: Path) -> None:
    """Write the scripts into this directory."""
    names = {"directory": directory, "root": ROOT, "python": sys.executable}
    work = {
        "wake-process": _WAKE_PROCESS,
        "sleep-process": _SLEEP_PROCESS,
        "wake-resident": _WAKE_RESIDENT,
        "sleep-resident": _SLEEP_RESIDENT,
    }
    start = _START.format(**names)
    for name, text in work.items():
        (directory / name).write_text(start + text.format(**names) + _END)
    (directory / "alive").write_text(start + _ALIVE + _END + "exit $status\n")
    for name in ("faults", "running", "spool", "state", "run"):
        (directory / name).mkdir(mode=0o700)


def hooks(directory: Path, kind: str) -> dict[str, str]:
    """Return the three hooks of a model whose server is of this kind."""
    return {
        "wake": f". {directory}/wake-{kind}",
        "sleep": f". {directory}/sleep-{kind}",
        "alive": f". {directory}/alive",
    }
