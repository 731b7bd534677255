"""
This package asks the policy, and carries out its answers.

 - C{listeners}: tells events to the policy, and after it to observers
 - C{questions}: when the policy is asked; a switch that it answers begins
 - C{containment}: a policy that raises or answers nonsense is answered for by FIFO
 - C{answers}: what is wrong with an answer that cannot be carried out
 - C{view}: what a policy sees when it is asked
"""
