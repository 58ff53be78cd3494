"""What federation is worth, what it tells and what it withstands: weekly rounds replayed on Online Retail's validation
period with the sources' scores computed once, so that hundreds of attacks and settings can be tried."""
