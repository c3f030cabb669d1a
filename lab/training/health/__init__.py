"""How a network does while it learns: sizes of updates, gradients, units, filters; measured now and then, cheaply."""
