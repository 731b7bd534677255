"""
This module has configurations of llama-swap that were written for these tests, in the shapes
that its users post.
"""

from __future__ import annotations

FILES = {
    "one line": """
models:
  tiny:
    cmd: llama-server --port ${PORT} -m /models/tiny.gguf
""",
    "fixed ports, profiles": """
healthCheckTimeout: 300
logLevel: debug
profiles:
  coding: [coder, thinker]
models:
  coder:
    env: ["CUDA_VISIBLE_DEVICES=0"]
    aliases: [code]
    proxy: "http://127.0.0.1:8999"
    cmd: >
      llama-server --host 127.0.0.1 --port 8999
      --samplers "top_k;top_p"
      -m /models/coder.gguf
  thinker:
    env: ["CUDA_VISIBLE_DEVICES=1"]
    proxy: "http://127.0.0.1:9503"
    cmd: llama-server --port 9503 -m /models/thinker.gguf
""",
    "a macro for the server": """
macros:
  "server": >
    /opt/llama.cpp/bin/llama-server
    --port ${PORT}
    --api-key none
  "small": >
    /opt/llama.cpp/bin/llama-server --port ${PORT} -t 2
models:
  large:
    filters: {strip_params: "temperature, top_p"}
    ttl: 300
    cmd: |
      ${server}
      --model /mnt/large.gguf
      --temp 1.1
  little:
    unlisted: true
    ttl: 0
    cmd: |
      ${small}
      -m /mnt/little.gguf
""",
    "a group that stays, a group that swaps": """
models:
  embed: {cmd: "llama-server --port ${PORT} -m e.gguf --embeddings"}
  rerank: {cmd: "llama-server --port ${PORT} -m r.gguf --reranking"}
  a: {cmd: "llama-server --port ${PORT} -m a.gguf"}
  b: {cmd: "llama-server --port ${PORT} -m b.gguf"}
groups:
  always:
    persistent: true
    swap: false
    exclusive: false
    members: [embed, rerank]
""",
    "a group of several, against the rest": """
models:
  s1: {cmd: "llama-server --port ${PORT} -m 1.gguf"}
  s2: {cmd: "llama-server --port ${PORT} -m 2.gguf"}
  s3: {cmd: "llama-server --port ${PORT} -m 3.gguf"}
  large: {cmd: "llama-server --port ${PORT} -m large.gguf"}
  huge: {cmd: "llama-server --port ${PORT} -m huge.gguf"}
groups:
  small: {description: fit together, swap: false, members: [s1, s2, s3]}
""",
    "two GPUs, a group for each": """
models:
  left1: {env: ["CUDA_VISIBLE_DEVICES=0"], cmd: "llama-server --port ${PORT} -m 1.gguf"}
  left2: {env: ["CUDA_VISIBLE_DEVICES=0"], cmd: "llama-server --port ${PORT} -m 2.gguf"}
  right1: {env: ["CUDA_VISIBLE_DEVICES=1"], cmd: "llama-server --port ${PORT} -m 3.gguf"}
  right2: {env: ["CUDA_VISIBLE_DEVICES=1"], cmd: "llama-server --port ${PORT} -m 4.gguf"}
groups:
  gpu-left: {exclusive: false, members: [left1, left2]}
  gpu-right: {exclusive: false, members: [right1, right2, gone]}
""",
    "docker": """
models:
  boxed:
    proxy: "http://127.0.0.1:${PORT}"
    cmd: |
      docker run --name ${MODEL_ID} --init --rm
      -p ${PORT}:8080 -v /srv/models:/models
      ghcr.io/ggml-org/llama.cpp:server -m '/models/a b.gguf'
    cmdStop: docker stop ${MODEL_ID}
""",
    "vLLM in docker": """
healthCheckTimeout: 900
unloadTimeout: 60
models:
  "Qwen/Qwen3-8B":
    checkEndpoint: /v1/models
    concurrencyLimit: 64
    cmd: |
      docker run --gpus all --rm --ipc=host --name vllm-${PORT}
      -p ${PORT}:8000 -e HF_TOKEN=${env.LLMUX_TEST_TOKEN}
      vllm/vllm-openai:latest --model ${MODEL_ID} --max-model-len 32768
    cmdStop: docker kill --signal=TERM vllm-${PORT}
""",
    "whisper": """
models:
  whisper:
    checkEndpoint: /v1/audio/transcriptions/
    cmd: >
      whisper-server --port ${PORT} -m /models/whisper.bin
      --request-path /v1/audio/transcriptions --inference-path ""
""",
    "no health to ask": """
models:
  image:
    proxy: http://localhost:9999
    checkEndpoint: none
    cmd: sd-server --listen-port 9999 --model /models/z.gguf
""",
    "backslashes and comments": r"""
models:
  long:
    cmd: |
      # the server
      llama-server \
        --port \${PORT} \
        --ctx-size 8192 \
        # -ngl 99
        -m /models/long.gguf
""",
    "anchors and merges": """
x-base: &base
  ttl: 600
  env: [GGML_CUDA_ENABLE_UNIFIED_MEMORY=1]
models:
  one:
    <<: *base
    cmd: llama-server --port ${PORT} -m 1.gguf
  two:
    <<: *base
    ttl: 60
    cmd: llama-server --port ${PORT} -m 2.gguf
""",
    "JSON in an argument": """
models:
  "qwen3:30b-a3b":
    aliases: ["qwen3"]
    cmd: >
      llama-server --port ${PORT} --jinja
      --chat-template-kwargs '{"enable_thinking": false}'
      -hf unsloth/Qwen3-30B-A3B-GGUF:Q4_K_XL
""",
    "a shell of its own": """
models:
  exl:
    cmd: bash -c 'cd "$HOME/tabby" && exec python main.py --port ${PORT}'
""",
    "the environment": """
macros:
  dir: ${env.LLMUX_TEST_HOME}/models
models:
  a:
    name: on ${env.LLMUX_TEST_HOST}
    cmd: llama-server --port ${PORT} -m ${dir}/a.gguf ${env.LLMUX_TEST_ARGS}
""",
    "macros of a model": """
macros:
  ctx: 4096
  args: "--ctx-size ${ctx}"
models:
  small: {cmd: "llama-server --port ${PORT} ${args} -m s.gguf"}
  large:
    macros: {ctx: 16384, temp: 0.70}
    metadata: {ctx: "${ctx}"}
    cmd: llama-server --port ${PORT} ${args} --temp ${temp} -m l.gguf
""",
    "matrix": """
models:
  gemma: {cmd: "llama-server --port ${PORT} -m g.gguf"}
  qwen: {cmd: "llama-server --port ${PORT} -m q.gguf"}
  voice: {cmd: "llama-server --port ${PORT} -m v.gguf"}
  rank: {cmd: "llama-server --port ${PORT} -m r.gguf"}
  seventy: {cmd: "llama-server --port ${PORT} -m l.gguf"}
matrix:
  vars: {g: gemma, q: qwen, v: voice, r: rank, L: seventy}
  evict_costs: {L: 30}
  sets:
    standard: "(g | q) & v"
    ranked: "+standard & r"
    full: "L"
""",
    "routing": """
models:
  gemma: {cmd: "llama-server --port ${PORT} -m g.gguf"}
  qwen: {cmd: "llama-server --port ${PORT} -m q.gguf"}
  paint: {cmd: "llama-server --port ${PORT} -m p.gguf"}
routing:
  scheduler: {use: fifo}
  router:
    use: matrix
    settings:
      matrix:
        sets: {creative: "(gemma | qwen) & paint"}
""",
    "variants": """
models:
  oss:
    cmd: llama-server --port ${PORT} -m oss.gguf
    useModelName: openai/gpt-oss
    aliases: ["oss:low", gpt]
    capabilities: {context: 131072, in: [text], out: [text], tools: true}
    description: thinks
    timeouts: {connect: 5, responseHeader: 60}
    filters:
      stripParams: "model, top_k"
      setParams: {temperature: 1.0, model: x}
      setParamsByID:
        "${MODEL_ID}": {reasoning_effort: medium}
        "${MODEL_ID}:high": {reasoning_effort: high}
        "${MODEL_ID}:low": {reasoning_effort: low}
""",
    "keys, peers, preload": """
startPort: 10001
sendLoadingState: true
includeAliasesInList: true
apiKeys: ["sk-not-for-eyes"]
hooks: {on_startup: {preload: [b-alias, gone]}}
peers:
  cloud: {proxy: "https://llm.example/api", apiKey: "sk-secret", models: [x, y]}
models:
  a: {cmd: "llama-server --port ${PORT} -m a.gguf"}
  b: {cmd: "llama-server --port ${PORT} -m b.gguf", aliases: [b-alias]}
""",
    "another machine": """
models:
  far:
    proxy: https://10.0.0.7:8443/base
    cmd: ssh gpu llama-server --port 8443 -m far.gguf
""",
    "what is wrong is left out": """
models:
  good: {cmd: "llama-server --port ${PORT} -m g.gguf", aliases: [bad, "", good], ttl: -1}
  bad: {cmd: "llama-server ${NOT_DEFINED}"}
  quote: {cmd: "llama-server 'open"}
  none: {aliases: [x]}
  text: llama-server
groups: {all: {members: [good, bad]}}
frobnicate: 1
""",
}
"""This mapping has each file by the subject of its test."""

EVERY_KEY = """
healthCheckTimeout: 240
globalTTL: 900
unloadTimeout: 20
logLevel: warn
logTimeFormat: kitchen
logToStdout: both
logRequests: true
metricsMaxInMemory: 50
captureBuffer: 3
store: {path: /var/lib/swap.sqlite}
ui: {activity: {session_id: [X-Session]}}
performance: {every: 30s}
startPort: 9001
sendLoadingState: true
includeAliasesInList: true
upstream: {ignorePaths: [/metrics]}
profiles: {work: {pins: {gpt: main}}}
apiKeys: [secret-of-somebody]
macros: {base: "llama-server --port ${PORT}", depth: 2048}
hooks: {on_startup: {preload: [main]}}
peers:
  elsewhere: {proxy: "http://10.1.1.1", models: [far-1, far-2]}
groups:
  pair: {swap: false, exclusive: true, members: [main, other]}
models:
  main:
    macros: {depth: 8192}
    cmd: |
      # the command
      ${base} -m main.gguf
      -c ${depth}
    cmdStop: stop-it ${PID}
    name: The main model
    description: for everything
    env: [GGML_X=1]
    proxy: http://127.0.0.1:9555
    aliases: [{id: gpt, name: GPT, unlisted: true}]
    checkEndpoint: /ready
    ttl: 30
    unloadTimeout: 45
    useModelName: org/main
    filters:
      stripParams: top_k
      setParams: {temperature: 0.5}
      setParamsByID: {"${MODEL_ID}-deep": {reasoning: high}}
    metadata: {depth: "${depth}"}
    concurrencyLimit: 3
    sendLoadingState: true
    unlisted: true
    timeouts: {connect: 3, keepalive: 4, responseHeader: 50, tlsHandshake: 6, idleConn: 7}
    capabilities: {in: [text], out: [text], tools: true, reranker: true, context: 4096}
  other: {cmd: "${base} -m other.gguf"}
  third: {cmd: "${base} -m third.gguf"}
"""
"""This file has all keys that llama-swap's own example and its schema have, once each."""
