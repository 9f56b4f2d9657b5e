"""Models of a table: closed forms, networks, likelihoods, priors."""
