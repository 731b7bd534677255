# What wake.sh, sleep.sh and alive.sh share.  Sourced by them.

url=http://127.0.0.1:$LLMUX_PORT

# Set $state: awake, asleep, or nothing if nobody answers.  Fail, with a word
# about it, if the answer is not that of a vLLM with sleep mode.
#
# No time limit: a server too busy to answer is not known to be asleep, and
# llmux (alive_timeout_secs) tells the two apart.
ask() {
    state=
    answer=$(curl -sS --noproxy '*' -w '\n%{http_code}' "$url/is_sleeping" 2>/dev/null) || return 0
    status=${answer##*
}
    answer=${answer%
*}
    case $status$(printf %s "$answer" | tr -d ' ') in
        '200{"is_sleeping":false}') state=awake ;;
        '200{"is_sleeping":true}') state=asleep ;;
        5*)
            echo "$url/is_sleeping answers $status: the engine is dead or broken: $answer" >&2
            return 1
            ;;
        *)
            echo "$url/is_sleeping answers $status: $answer" >&2
            echo "Does it run with VLLM_SERVER_DEV_MODE=1 and --enable-sleep-mode?" >&2
            return 1
            ;;
    esac
}

post() {
    curl -sS --noproxy '*' --fail-with-body -o /dev/fd/2 -X POST "$url$1"
}
