"""How a module is trained: the learner, the loop around its steps and the parts of that loop."""
