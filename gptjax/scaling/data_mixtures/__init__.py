"""Laws of data mixtures: the loss as a function of the weights of sources, and the best weights."""
