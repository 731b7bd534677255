"""
This package drafts first configurations from what a machine has: GPUs, model files, other
programs' configurations.

 - C{blank}: a model that the user is to change
 - C{gguf}: C{llama-server} for each GGUF file of a directory
 - C{ollama}: the models of an Ollama
 - C{llama_swap}: a configuration of llama-swap
 - C{llama_swap_model}: one model of it
 - C{llama_swap_rules}: its rules about models that may be loaded together
 - C{coexistence}: such a rule as what each model needs
 - C{command_words}: its commands, as commands for a shell
 - C{macros}: its macros, replaced
 - C{gguf_header}: the first keys of a GGUF file
 - C{gpus}: the GPUs of this machine
 - C{draft}: a configuration as text, with comments
"""
