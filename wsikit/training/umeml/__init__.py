"""UMEML on a cohort: settings, what is fitted on the training part, the loop, and the learner of `training.cohort`."""
