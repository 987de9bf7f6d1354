"""Looking into a model: what its embedding holds, where it looks, how it learned, how it errs."""
