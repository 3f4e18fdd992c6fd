"""Plans: how teachers, alignment, softening, fusion and sparsity become one answer."""
