"""Migration: what is decided about moving guests, apart from the moving."""
