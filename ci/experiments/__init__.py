"""What is run to be measured or shown, not to pass: the demo, the benchmarks, the fault table and the soak."""
