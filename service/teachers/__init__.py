"""Teachers: models that answer a batch of rows with one class distribution each."""
