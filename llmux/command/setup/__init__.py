"""
This package has the commands that are given before llmux runs for the first time.

 - C{init}: C{llmux init} writes a first configuration
 - C{schema}: C{llmux schema} prints the JSON schema of the configuration
 - C{completion}: C{llmux completion} prints a script with which a shell completes
 - C{completion_scripts}: those scripts, for bash, zsh and fish
 - C{described_line}: what the command line consists of, read from its parsers
"""
