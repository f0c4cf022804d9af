"""Do: the training loop, the meter, the run folder, budgets, TensorBoard. Importing this loads no torch; its modules do."""
