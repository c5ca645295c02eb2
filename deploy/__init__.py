"""What is run once on a machine: mending an environment, measuring a GPU."""
