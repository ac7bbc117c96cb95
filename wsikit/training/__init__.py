"""Training of models: data, augmentation, curriculum and stages, trainer, metrics, baselines. No slides, no stores."""
