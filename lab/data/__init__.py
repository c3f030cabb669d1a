"""Data modules. A DataModule has a `spec` (what a module must know of its data) and yields chunks of many batches."""
