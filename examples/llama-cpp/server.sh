# What wake.sh, sleep.sh and alive.sh share.  Sourced by them, with the
# configuration's directory as the working directory.
#
# One file for each server, named after its port, says which process it is:
# its id, and when it started, so that a process that was given the same id
# later is never taken for it.

pidfile=run/$LLMUX_PORT.pid

# Print when process $1 started; fail if there is none (a zombie is none).
started() {
    if [ -r /proc/self/stat ]; then
        read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
        # Fields 3 (state) and 22 (start time); field 2 may hold anything.
        set -- ${stat##*) }
        [ "$1" != Z ] && echo "${20}"
    else
        ps -o lstart= -p "$1"
    fi
}

# Set $pid to the server's process; fail if it is not running.
running() {
    read -r pid since 2>/dev/null <"$pidfile" || return 1
    [ "$(started "$pid" 2>/dev/null)" = "$since" ]
}
