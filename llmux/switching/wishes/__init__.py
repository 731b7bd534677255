"""
This package has what is asked of the switcher by others than requests: operators, timers and
the configuration.

 - C{idleness}: models that go to sleep after some time, and the default model
 - C{kept_awake}: models that must always be awake, and the room reserved for them
 - C{steering}: the commands of operators
 - C{errands}: the switches and sleeps that commands have left to be done
 - C{lasting}: pins and the pause, which outlive a restart
"""
