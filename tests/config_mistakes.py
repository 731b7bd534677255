"""This module has mistakes in configurations, and what llmux says of each."""

from __future__ import annotations

from llmux.config import (
    Config,
)

__all__ = [
    "BAD_JSON",
    "BAD_YAML",
    "BOMB",
    "GOOD",
    "GOOD_JSON",
    "IN_QUOTES",
    "KEYLESS",
    "LIST_OF_MODELS",
    "MALFORMED",
    "MODEL",
    "NO_HOOKS",
    "NO_LIMIT",
    "NO_MODELS",
    "TIME_LIMIT",
    "TOO_DEEP",
    "TOP_KEYS",
    "model",
]

MODEL = "port: 8001, wake: up, sleep: down, alive: ask"
GOOD = f"models: {{a: {{{MODEL}}}}}\n"
GOOD_JSON = '{"models": {"a": {"port": 8001, "wake": "up", "sleep": "down", "alive": "ask"}}'

TOP_KEYS = ", ".join(
    sorted({*Config.__struct_fields__, "drain_timeout_secs"} - {"directory", "file"})
)
TIME_LIMIT = "is not a time limit in seconds; give a number above 0"
NO_LIMIT = ", or leave it out for no limit"


def model(**changes: str) -> str:
    """Write a file whose one model has these keys too, or has them changed."""
    keys = {"port": "8001", "wake": "up", "sleep": "down", "alive": "ask"} | changes
    return f"models: {{a: {{{', '.join(f'{k}: {v}' for k, v in keys.items())}}}}}\n"


LIST_OF_MODELS = (
    'models: a list is not a mapping of names to models; write "NAME:" and, '
    "indented under it, serve, or port, wake and sleep"
)
NO_MODELS = (
    "models: there are none; give at least one, with serve, or with port, wake and sleep"
)
NO_HOOKS = (
    "models.a.serve: missing; give the command of the model's server, or port, wake and sleep"
)
MALFORMED = "correct it there (a colon, a bracket, a quote or the indentation)"
IN_QUOTES = 'put text that holds ": " in quotes, or begin a block with "|"'
TOO_DEEP = (
    "values lie more than 32 levels deep; a configuration needs three; "
    "look for brackets or indentation gone wrong"
)
KEYLESS = "a key is text; put it in quotes if it begins with a bracket or brace"
BOMB = "a: &b [1, 1]\n" + "".join(f"a{i}: &b [*b, *b, *b, *b]\n" for i in range(3)).replace(
    "&b", "&c"
)

BAD_YAML = [
    # The whole file.
    ("", 'the file is empty; it needs at least "models:"'),
    ("  \n", 'the file is empty; it needs at least "models:"'),
    ("# nothing\n", 'it holds no configuration; it needs at least "models:"'),
    ("- a", 'it holds a list; begin with a mapping: "models:"'),
    ("a", 'it holds "a"; begin with a mapping: "models:"'),
    (b"a: \xff", "line 1 is not UTF-8; save the file in the UTF-8 encoding"),
    (b"a: 1\nb: \xff", "line 2 is not UTF-8; save the file in the UTF-8 encoding"),
    ("a: 1".encode("utf-16"), "line 1 is not UTF-8; save the file in the UTF-8 encoding"),
    ("a: \x07", "line 1 holds the control character U+0007; remove it"),
    # Not YAML.
    (
        "a: b: c",
        f"line 1, column 5 is not YAML: mapping values are not allowed in this context; "
        f"{IN_QUOTES}",
    ),
    (
        "a:\n\tb: 1",
        "line 2, column 1 is not YAML: found character that cannot start any token; indent "
        "with spaces, not tabs; put text that begins with @, ` or % in quotes",
    ),
    ('a: "\\q"', f"line 1, column 5 is not YAML: found unknown escape character; {MALFORMED}"),
    ("a: [", f"line 2, column 1 is not YAML: did not find expected node content; {MALFORMED}"),
    ("a: 1\n---\nb: 1", 'a second document begins with "---"; keep one only'),
    ("a: !foo 1", "a: the tag !foo means nothing here; remove it"),
    ("a: !!set {}", "a: the tag !!set means nothing here; remove it"),
    (
        "a: *x",
        "a: *x refers to nothing; put text that begins with * in quotes, or define the "
        "anchor before it",
    ),
    ("a: &x [*x]", "a[0]: *x refers to itself; write the value out"),
    ("a: &x {b: *x}", "a.b: *x refers to itself; write the value out"),
    ("<<: 5", '"<<": 5 cannot be merged; merge a mapping'),
    ("[" * 300_000, TOO_DEEP),
    ("a: " + "{a: " * 40, TOO_DEEP),
    (BOMB, f"a: unknown key; known here: {TOP_KEYS}"),
    # Keys.
    ("{[a]: 1}", f"line 1 has a list for a key; {KEYLESS}"),
    ("{{a: 1}: 1}", f"line 1 has a mapping for a key; {KEYLESS}"),
    ("on: 1", 'the key on in line 1 is a boolean in YAML; write it in quotes: "on"'),
    (
        "models: {1.5: {}}",
        'models: the key 1.5 in line 1 is a number in YAML; write it in quotes: "1.5"',
    ),
    (
        "models:\n  ~: {}",
        'models: the key ~ in line 2 is null in YAML; write it in quotes: "~"',
    ),
    (
        "models: {2020-01-01: {}}",
        "models: the key 2020-01-01 in line 1 is a date in YAML; "
        'write it in quotes: "2020-01-01"',
    ),
    ("? \n: 1", "the key in line 1 is empty; give it a name"),
    (GOOD + GOOD, "models: given twice (lines 1 and 2); remove one of the two"),
    (
        model(wake="up, wake: other"),
        "models.a.wake: given twice (lines 1 and 1); remove one of the two",
    ),
    (GOOD + "prt: 1", "prt: unknown key; did you mean port?"),
    (
        GOOD + "allowed_hosts: [a, 'http://x']",
        'allowed_hosts[1]: "http://x" is not the name of a host; give it without http:// and '
        "port; *.NAME stands for what is under it",
    ),
    (
        GOOD + "allowed_hosts: llm.lan",
        'allowed_hosts: the string "llm.lan" is not a list of hosts\' names; give one, as in '
        '["llm.lan", "*.lan"]',
    ),
    (
        GOOD + "cors_origins: [chat.example]",
        'cors_origins[0]: "chat.example" is not an origin; write it as in '
        "https://chat.example.com, http://localhost:* or app://*",
    ),
    (GOOD + "xyzzy: 1", f"xyzzy: unknown key; known here: {TOP_KEYS}"),
    (
        GOOD + "request_timeout_secs: 1",
        'request_timeout_secs: not known here; it belongs under "policy:"',
    ),
    (
        GOOD + "wake_timeout_secs: 1",
        'wake_timeout_secs: not known here; it belongs under a model\'s name in "models:"',
    ),
    (
        GOOD + "policy: {port: 1}",
        "policy.port: not known here; it belongs at the top level",
    ),
    (
        model(min_active_secs="1"),
        'models.a.min_active_secs: not known here; it belongs under "policy:"',
    ),
    (
        GOOD + "max_wait_secs: 60",
        'max_wait_secs: not known here; it belongs under "policy:"',
    ),
    (model(linger="1"), 'models.a.linger: not known here; it belongs under "policy:"'),
    (model(cmd="1"), "models.a.cmd: unknown key; did you mean serve?"),
    (model(ttl="1"), "models.a.ttl: unknown key; did you mean idle_sleep_secs?"),
    (
        GOOD.replace("models: {a:", "models: {Qwen3-8B-AWQ:") + "preload: [qwen3-8b-awq]",
        'preload[0]: there is no model "qwen3-8b-awq"; did you mean Qwen3-8B-AWQ?',
    ),
    (model(wkae="1"), "models.a.wkae: unknown key; did you mean wake?"),
    (model(Wake="1"), "models.a.Wake: unknown key; did you mean wake?"),
    (
        model(**{"wake-timeout": "1"}),
        "models.a.wake-timeout: unknown key; did you mean wake_timeout_secs?",
    ),
    (
        GOOD + "policy: {request_timeout: 5}",
        "policy.request_timeout: unknown key; did you mean request_timeout_secs?",
    ),
    (
        GOOD + "request_timeout_sec: 5",
        "request_timeout_sec: unknown key; did you mean request_timeout_secs? "
        'it belongs under "policy:"',
    ),
    # Models.
    ("models:", NO_MODELS),
    ("models: {}", NO_MODELS),
    ("port: 3000", NO_MODELS),
    ("models: []", LIST_OF_MODELS),
    ("models: {a: }", NO_HOOKS),
    ("models: {a: {port: 1}}", NO_HOOKS),
    ("models: {a: {port: 1, alive: x}}", NO_HOOKS),
    ("models: {a: {sleep: x}}", "models.a.wake: missing; give a shell script"),
    (
        "models: {a: {serve: s, wake: w}}",
        "models.a.serve: given together with wake, but serve starts the server, stops it and "
        "asks for its health by itself; leave out serve, or wake",
    ),
    (
        "models: {a: {serve: s, sleep: s, alive: a}}",
        "models.a.serve: given together with sleep and alive, but serve starts the server, "
        "stops it and asks for its health by itself; leave out serve, or sleep and alive",
    ),
    (
        model(stop_secs="5"),
        "models.a.stop_secs: it is for servers that serve starts, and there is no serve; "
        "remove it",
    ),
    (
        "models: {a: {serve: s, sleep_timeout_secs: 10}}",
        "models.a.stop_secs: 10 is not below sleep_timeout_secs (10); make the first less or "
        "the second more",
    ),
    (
        "models: {a: {serve: ' '}}",
        'models.a.serve: the script is empty; give a command; "true" does nothing',
    ),
    (
        'models: {"q2.5": {port: 1, wake: w}}',
        'models."q2.5".sleep: missing; give a shell script',
    ),
    (
        "models: {a: 5}",
        "models.a: 5 is not a model; give it serve, or port, wake and sleep, indented under "
        "its name",
    ),
    (
        'models: {"": {}}',
        'models."": a model\'s name is empty; give it the name that requests use',
    ),
    (
        'models: {" ": {}}',
        'models." ": a model\'s name is empty; give it the name that requests use',
    ),
    (
        'models: {"a\\nb": {}}',
        'models."a\\nb": the name holds a control character; remove it',
    ),
    (model(port="0"), "models.a.port: 0 is not a port; give 1 to 65535"),
    (model(port="65536"), "models.a.port: 65536 is not a port; give 1 to 65535"),
    (model(port="-1"), "models.a.port: -1 is not a port; give 1 to 65535"),
    (model(port="1.5"), "models.a.port: 1.5 is not a port; give 1 to 65535"),
    (model(port="true"), "models.a.port: true is not a port; give 1 to 65535"),
    (model(port="http"), 'models.a.port: the string "http" is not a port; give 1 to 65535'),
    (
        model(port='"8001"'),
        'models.a.port: the string "8001" is not a port; write it without quotes: 8001',
    ),
    (
        model(port="9" * 400),
        "models.a.port: a number of more than 60 digits is not a port; give 1 to 65535",
    ),
    (
        model(port="9" * 5000),
        f'models.a.port: "{"9" * 57}..." cannot be read as a number; correct it',
    ),
    (model(port="!!int ''"), 'models.a.port: "" cannot be read as a number; correct it'),
    (
        model(wake="true"),
        'models.a.wake: true is not a shell script; write it in quotes: "true"',
    ),
    (model(wake="5"), 'models.a.wake: 5 is not a shell script; write it in quotes: "5"'),
    (model(wake=""), "models.a.wake: missing; give a shell script"),
    (model(wake="[a]"), "models.a.wake: a list is not a shell script; give one, in quotes"),
    (model(wake="{}"), "models.a.wake: a mapping is not a shell script; give one, in quotes"),
    (
        model(sleep='""'),
        "models.a.sleep: the empty string is not a shell script; give one, in quotes",
    ),
    (
        model(alive='" "'),
        "models.a.alive: empty; give a shell script",
    ),
    (
        model(wake="2020-01-01"),
        "models.a.wake: 2020-01-01 is a date in YAML; write it in quotes",
    ),
    (
        model(wake='"a\\0b"'),
        "models.a.wake: the script holds a NUL character; remove it",
    ),
    (
        model(wake="x" * 131072),
        "models.a.wake: the script is longer than 128 KiB; put it in a file and call that",
    ),
    (model(host='""'), "models.a.host: the empty string is not a name; give one, in quotes"),
    (model(host='" "'), "models.a.host: empty; give a name"),
    (
        model(check_secs="0"),
        "models.a.check_secs: 0 is not a number of seconds; give a number above 0, or null to "
        "ask only after errors",
    ),
    (
        model(confirm_sleep="maybe"),
        'models.a.confirm_sleep: the string "maybe" is not true or false; give one of them, '
        "without quotes",
    ),
    (
        model(health="/x"),
        "models.a.health: nobody asks for it where alive is a script; remove the one or the "
        "other",
    ),
    (
        model(health="x"),
        'models.a.health: the string "x" is not a path; give one that begins with a slash, as '
        'in "/health"',
    ),
    (
        model(idle_sleep_secs="0"),
        f"models.a.idle_sleep_secs: 0 {TIME_LIMIT}{NO_LIMIT}",
    ),
    (
        model(idle_sleep_secs="60", keep="always"),
        "models.a.idle_sleep_secs: a is kept awake always (keep: always); leave out one of the "
        "two",
    ),
    (
        GOOD + "preload: [b]",
        'preload[0]: there is no model "b"; known here: a',
    ),
    (
        GOOD.replace("a:", "alpha:") + "default_model: alpa",
        'default_model: there is no model "alpa"; did you mean alpha?',
    ),
    (
        f"models: {{a: {{{MODEL}}}, b: {{{MODEL}}}}}\npreload: [a, b]",
        "preload: these need 2 of gpu (a's 1 and b's 1), and there is 1; leave out as many as "
        "do not fit",
    ),
    (GOOD + "abandon_wake_secs: -1", f"abandon_wake_secs: -1 {TIME_LIMIT}{NO_LIMIT}"),
    (model(wake_timeout_secs="0"), f"models.a.wake_timeout_secs: 0 {TIME_LIMIT}"),
    (model(sleep_timeout_secs="-1"), f"models.a.sleep_timeout_secs: -1 {TIME_LIMIT}"),
    (
        model(alive_timeout_secs="ten"),
        f'models.a.alive_timeout_secs: the string "ten" {TIME_LIMIT}',
    ),
    (model(weight="0"), "models.a.weight: 0 is not a weight; give a number above 0"),
    (
        model(weight=".nan"),
        "models.a.weight: not a finite number; give a number, or leave the key out",
    ),
    (
        model(weight=".inf"),
        "models.a.weight: not a finite number; give a number, or leave the key out",
    ),
    # The rest.
    (GOOD + "port: 70000", "port: 70000 is not a port; give 1 to 65535"),
    (GOOD + "host: ~", "host: null is not a name; give one, in quotes"),
    (GOOD + "listen: 5", 'listen: 5 is not an endpoint; give a string, as in "tcp:3000"'),
    (
        GOOD + "listen: tcp:1\nport: 3000",
        "listen: given together with port; leave out one of the two",
    ),
    (
        GOOD + "listen: tcp:1\nhost: localhost",
        "listen: given together with host; leave out one of the two",
    ),
    (
        GOOD + "max_body_mb: 0",
        "max_body_mb: 0 is not a whole number of megabytes; give a whole number, 1 or more",
    ),
    (
        GOOD + "sleep_on_exit: 'yes'",
        'sleep_on_exit: the string "yes" is not true or false; give one of them, '
        "without quotes",
    ),
    (GOOD + "client_stall_timeout_secs: 0", f"client_stall_timeout_secs: 0 {TIME_LIMIT}"),
    (
        GOOD + "shutdown_timeout_secs: -1",
        "shutdown_timeout_secs: -1 is not a number of seconds; give a number, 0 or more",
    ),
    (GOOD + "drain_timeout_secs: 0", f"drain_timeout_secs: 0 {TIME_LIMIT}{NO_LIMIT}"),
    (
        GOOD + "state_dir: ''",
        "state_dir: the empty string is not a directory's name; give a string, or leave it out",
    ),
    (
        GOOD + "request_log: ''",
        "request_log: the empty string is not a file name; give a string, or leave it out",
    ),
    (
        GOOD + "port: 8001",
        "models.a.port: 8001 is where llmux itself listens; "
        "give the port of the model's server, or llmux another",
    ),
    (
        GOOD + "port: 8001\nhost: 0.0.0.0",
        "models.a.port: 8001 is where llmux itself listens; "
        "give the port of the model's server, or llmux another",
    ),
    *(
        (
            model(host=f'"{host}"'),
            f'models.a.host: "{host}" is neither a host\'s name nor an IP address; '
            "give it without http://, brackets and port",
        )
        for host in (
            "http://gpu",
            "[::1]",
            "gpu:8000",
            "a b",
            "gpu\\r\\nX: y",
            "mü..x",
            "fe80::1%x\\r\\nX: y",
            "::1%",
        )
    ),
    (
        GOOD + 'host: "::1%a\\tb"',
        'host: "::1%a\\tb" is neither a host\'s name nor an IP address; '
        "give it without http://, brackets and port",
    ),
    # The policy.
    (GOOD + "policy: fifo", 'policy: "fifo" is not a mapping; write {name: fifo}'),
    (GOOD + "policy: [1]", "policy: a list is not a mapping; indent its keys under it"),
    (GOOD + "policy: {name: 5}", 'policy.name: 5 is not a name; write it in quotes: "5"'),
    (
        GOOD + "policy: {drain_before_switch: 1}",
        "policy.drain_before_switch: 1 is not true or false; give one of them, without quotes",
    ),
    (
        GOOD + "policy: {request_timeout_secs: 0}",
        f"policy.request_timeout_secs: 0 {TIME_LIMIT}{NO_LIMIT}",
    ),
    (
        GOOD + "policy: {request_timeout_secs: '5'}",
        'policy.request_timeout_secs: the string "5" is not a time limit in seconds; '
        "write it without quotes: 5.0",
    ),
    (
        GOOD + "policy: {min_active_secs: -0.5}",
        "policy.min_active_secs: -0.5 is not a number of seconds; give a number, 0 or more",
    ),
    (
        GOOD + "policy: {client_stall_timeout_secs: 0}",
        f"policy.client_stall_timeout_secs: 0 {TIME_LIMIT}",
    ),
    (
        GOOD + "sleep_on_exit: true\npolicy: {sleep_on_exit: true}",
        "policy.sleep_on_exit: given here and at the top level; remove one of the two",
    ),
    (GOOD + "policy: {settings: {}}", "policy.settings: unknown key; known here: "),
    (GOOD + "directory: /", f"directory: unknown key; known here: {TOP_KEYS}"),
    (
        GOOD + "policy: {name: fifo, max_wait_secs: 3}",
        "policy.max_wait_secs: fifo has no such setting; cost_aware has; "
        "remove it, or write name: cost_aware",
    ),
]

BAD_JSON = [
    ("", 'the file is empty; it needs at least "models:"'),
    ("[]", 'it holds a list; begin with a mapping: "models:"'),
    (
        GOOD,
        "line 1, column 1 is not JSON: Expecting value; correct it there, "
        "or name the file .yaml if it is YAML",
    ),
    (GOOD_JSON + ', "models": {}}', "models: given twice; remove one of the two"),
    (
        '{"models": {"a": {"port": 1, "port": 1}}}',
        "models.a.port: given twice; remove one of the two",
    ),
    (
        GOOD_JSON + ', "port": NaN}',
        "port: not a finite number; give a number, or leave the key out",
    ),
    (
        GOOD_JSON + ', "policy": {"min_active_secs": 1e999}}',
        "policy.min_active_secs: not a finite number; give a number, or leave the key out",
    ),
    (
        GOOD_JSON + f', "port": {"9" * 5000}}}',
        "it holds a number of thousands of digits; give a shorter one",
    ),
    ("[" * 100_000, TOO_DEEP),
    ("[" * 40 + "]" * 40, TOO_DEEP),
    (
        GOOD_JSON.replace('"up"', '"\\ud800"') + "}",
        "models.a.wake: it holds half of a surrogate pair; write the character whole",
    ),
]
