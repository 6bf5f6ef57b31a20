"""Where a run's figures go besides its own folder: tensorboard, wandb, mlflow.

Invariant: nothing in here stops a run or holds it up.
"""
