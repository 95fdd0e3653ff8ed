"""The model: bundles on disk, and the meta-learner that combines their members."""
