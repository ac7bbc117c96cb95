"""Training of models: data, augmentation, curriculum and stages, trainer, metrics, floors. No slides, no stores."""
