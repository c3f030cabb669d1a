"""Words and characters: vocabularies, readers of files, padded minibatches of sequences."""
