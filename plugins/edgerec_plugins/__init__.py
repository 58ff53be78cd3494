"""edgerec's own plugins: they register through the entry-point group `edgerec`, as anybody else's do."""
