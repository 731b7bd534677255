"""
This package has the stories: coroutines that move models through their phases, and end.

 - C{transition}: a switch, whose victims drain and sleep, and whose target wakes
 - C{dismissal}: a model that goes to sleep for no other model
 - C{adoption}: llmux' start, which finds out which models are awake
 - C{drain_limit}: how long a model may drain
 - C{watch}: the question whether a model is awake, asked outside of the stories
 - C{shutdown}: the end of a switcher, and the last sleep of its models
 - C{recovery}: a clean-up, the check of a backend in doubt, the last sleep
 - C{story}: what all stories have in common
 - C{sequences}: the steps of a wake and of a sleep, hook by hook
 - C{preparation}: a model's C{prepare} hook, which runs beside a switch
"""
