"""What is asked of every row beside its tasks: batch and place, replicates, known biology, learning with few labels, gene expression."""
