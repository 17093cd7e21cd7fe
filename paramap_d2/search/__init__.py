"""The search for a loss: algorithm, proxy trainings, executors, and the store of what happened."""
