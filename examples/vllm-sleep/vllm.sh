# What wake.sh, sleep.sh and alive.sh share.  Sourced by them.

url=http://127.0.0.1:$LLMUX_PORT

# Set $state: awake, asleep, or nothing if nobody answers.  Fail, with a word
# about it, if the answer is not that of a vLLM with sleep mode.
#
# No time limit: a server too busy to answer is not known to be asleep, and
# llmux (alive_timeout_secs) tells the two apart.
ask() {
    state=
    answer=$(curl -sS --noproxy '*' "$url/is_sleeping" 2>/dev/null) || return 0
    case $(printf %s "$answer" | tr -d ' ') in
        '{"is_sleeping":false}') state=awake ;;
        '{"is_sleeping":true}') state=asleep ;;
        *)
            echo "$url/is_sleeping answers $answer" >&2
            echo "Does it run with VLLM_SERVER_DEV_MODE=1 and --enable-sleep-mode?" >&2
            return 1
            ;;
    esac
}

post() {
    curl -sS --noproxy '*' --fail-with-body -o /dev/fd/2 -X POST "$url$1"
}
