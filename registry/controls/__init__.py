"""Hand-made controls: what counts, histograms, spectra, textures and arrangements know, one control per file."""
